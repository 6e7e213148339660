"""The first heading of a text."""

from __future__ import annotations

from pydoc_data.topics import topics

import pytest

from pipeline_lib.corpus.headings import first_heading
from pipeline_lib.corpus.sources import HTML, MARKDOWN, PLAIN_TEXT, RESTRUCTURED_TEXT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Title\n*****\n\nText", "Title"),
        ("Intro.\n\nTitle\n.....\n", "Title"),
        ("=====\nTitle\n=====\n", "Title"),
        ("  Centred\n==========\n", "Centred"),
        ("A longer line of text\n-----\nsignature", None),
        ("=====\n=====\n", None),
        ("no heading here", None),
        ("# a comment", None),
        ("\n-----\n", None),
    ],
)
def test_plain_and_restructured_text(text: str, expected: str | None) -> None:
    assert first_heading(text, PLAIN_TEXT) == expected
    assert first_heading(text, RESTRUCTURED_TEXT) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\n\ntext", "Title"),
        ("intro\n\n## Title ##\n", "Title"),
        ("Title\n---\n", "Title"),
        ("```sh\n# a comment\n```\n# Title", "Title"),
        ("````\n```\n# inside\n````\n# Title", "Title"),
        ("#hashtag\n\n####### seven", None),
        ("\n---\n\ntext", None),
        ('---\nauthor: me\ntitle: "From: front matter"\n---\n# Title', "From: front matter"),
        ("---\nauthor: me\n---\n# Title", "Title"),
        ("---\n# Title", "Title"),
    ],
)
def test_markdown(text: str, expected: str | None) -> None:
    assert first_heading(text, MARKDOWN) == expected
    assert first_heading(text, HTML) == expected


def test_every_page_of_the_sample_has_its_first_line_as_heading() -> None:
    for page, text in topics.items():
        assert first_heading(text, PLAIN_TEXT) == text.lstrip().split("\n")[0], page
