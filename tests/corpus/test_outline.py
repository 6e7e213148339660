"""One text and its outline: exact offsets of headings and places, and a title."""

from __future__ import annotations

from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.corpus.cleaning import clean_text
from pipeline_lib.corpus.media_types import MARKDOWN, PDF, PLAIN_TEXT, PPTX, SOURCE_CODE
from pipeline_lib.corpus.outline import AssembledText, assemble
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment


def assembled(
    *texts: str,
    is_markdown: bool = False,
    media_type: str = PLAIN_TEXT,
    kind: str = "",
    title: str | None = None,
    name: str = "",
) -> AssembledText:
    return assemble(
        ParsedDocument(
            source_uri="file:a",
            media_type=MARKDOWN if is_markdown else media_type,
            segments=tuple(
                Segment(text=text, kind=kind, label=str(number) if kind else "")
                for number, text in enumerate(texts, start=1)
            ),
            is_markdown=is_markdown,
            title=title,
            name=name,
        )
    )


def outline(found: AssembledText) -> list[tuple[str, int, str]]:
    """First line at the section's start, its level, its label."""
    return [
        (found.text[section.start :].split("\n")[0], section.level, section.label)
        for section in found.sections
    ]


def test_segments_are_cleaned_and_joined_by_a_blank_line() -> None:
    found = assembled("one\r\n", "\x00", "  two\u00ad \n\n", kind="page", media_type=PDF)
    assert found.text == "one\n\n  two"
    assert [(s.start, s.kind, s.label) for s in found.sections] == [
        (0, "page", "1"),
        (5, "page", "3"),
    ]
    assert clean_text(found.text) == found.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\n\ntext", [("# Title", 1, "Title")]),
        ("intro\n\n## Title ##\n", [("## Title ##", 2, "Title")]),
        ("Title\n---\n", [("Title", 2, "Title")]),
        ("Two\nlines\n===\n", [("Two", 1, "Two lines")]),
        ("```sh\n# a comment\n```\n# Title", [("# Title", 1, "Title")]),
        ("````\n```\n# inside\n````\n# Title", [("# Title", 1, "Title")]),
        ("    # indented code\n", []),
        ("#hashtag\n\n####### seven\n\n#\n", []),
        ("\n---\n\ntext", []),
        ("- item\n---\n\n> # quoted\n\n- # in a list", []),
        ("| # | a |\n|---|---|\n| 1 | 2 |", []),
        (
            "## `code` of **b** [link](u) ![alt](p) {#anchor}",
            [("## `code` of **b** [link](u) ![alt](p) {#anchor}", 2, "code of b link alt")],
        ),
        ("---\ntitle: x\n# no: heading\n---\n# Yes", [("# Yes", 1, "Yes")]),
        ("---\n# Title", [("# Title", 1, "Title")]),
        ("---\n\n# Between rules\n\n---", [("# Between rules", 1, "Between rules")]),
        ("😀 漢字\n\n# 見出し", [("# 見出し", 1, "見出し")]),
    ],
)
def test_headings_of_markdown(text: str, expected: list[tuple[str, int, str]]) -> None:
    assert outline(assembled(text, is_markdown=True)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Title\n*****\n\nText", [("Title", 1, "Title")]),
        ("Intro.\n\nTitle\n.....\n", [("Title", 1, "Title")]),
        ("=====\nTitle\n=====\n", [("=====", 1, "Title")]),
        ("  Centred\n==========\n", [("  Centred", 1, "Centred")]),
        (
            "A B\n===\n\nC D\n---\n\nE F\n~~~\n\nG H\n---",
            [("A B", 1, "A B"), ("C D", 2, "C D"), ("E F", 3, "E F"), ("G H", 2, "G H")],
        ),
        ("===\nA B\n===\n\nA B\n===", [("===", 1, "A B"), ("A B", 2, "A B")]),
        ("A longer line of text\n-----\nsignature", []),
        ("end of a paragraph\nshort\n-----", []),
        ("=====\n=====\n", []),
        ("no heading here", []),
        ("# a comment", []),
        ("\n-----\n", []),
    ],
)
def test_headings_of_other_text_are_underlined(
    text: str, expected: list[tuple[str, int, str]]
) -> None:
    assert outline(assembled(text)) == expected


def test_source_code_has_no_headings() -> None:
    code = '"""Module.\n\nParameters\n----------\nx\n"""\n\n# A comment\n'
    assert assembled(code, media_type=SOURCE_CODE).sections == ()


def test_a_place_comes_before_the_heading_that_begins_with_it() -> None:
    found = assemble(
        ParsedDocument(
            source_uri="file:a",
            media_type=PPTX,
            is_markdown=True,
            segments=(
                Segment(text="# One\n\na", kind="slide", label="1"),
                Segment(text="# Two\n\nb", kind="slide", label="2"),
            ),
        )
    )
    assert found.text == "# One\n\na\n\n# Two\n\nb"
    assert [(s.start, s.kind, s.label, s.level) for s in found.sections] == [
        (0, "slide", "1", 0),
        (0, "heading", "One", 1),
        (10, "slide", "2", 0),
        (10, "heading", "Two", 1),
    ]


@pytest.mark.parametrize(
    ("text", "title", "expected"),
    [
        ("# Heading", "Given", "Given"),
        ("# Heading", "  ", "Heading"),
        (
            '---\nauthor: me\ntitle: "From: front matter"\n---\n# Heading',
            None,
            "From: front matter",
        ),
        ("---\nauthor: me\n---\n# Heading", None, "Heading"),
        ("text", None, "name.md"),
        ("", None, "name.md"),
    ],
)
def test_the_title_is_the_given_one_then_the_first_heading_then_the_name(
    text: str, title: str | None, expected: str
) -> None:
    assert assembled(text, is_markdown=True, title=title, name="name.md").title == expected


def test_nothing_becomes_an_empty_text() -> None:
    found = assembled(" \n\t", "\x00", kind="page")
    assert (found.text, found.sections, found.title) == ("", (), "")
    assert assembled().text == ""


def test_every_page_of_the_sample_has_its_first_line_as_heading() -> None:
    for page, text in topics.items():
        assert assembled(text).title == text.lstrip().split("\n")[0], page


LINES = st.lists(
    st.sampled_from(
        ["# h", "## é漢😀", "t", "---", "===", "", "```", "> q", "- i", "    c", "\r", "|a|"]
    ),
    max_size=20,
).map("\n".join)


@given(st.lists(LINES, max_size=4), st.booleans())
def test_every_section_begins_a_line_that_holds_its_heading(
    texts: list[str], is_markdown: bool
) -> None:
    found = assembled(*texts, is_markdown=is_markdown, kind="page")
    starts = [section.start for section in found.sections]
    assert starts == sorted(starts)
    for section in found.sections:
        assert section.start == 0 or found.text[section.start - 1] == "\n"
        if section.kind == "heading":
            assert section.label.split()[0] in found.text[section.start :]
