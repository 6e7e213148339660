"""Presentations: a segment a slide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.config.corpus import IngestLimits
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.schema import Drop

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]
ToBytes = Callable[[Any], bytes]


def presentation() -> Any:
    import pptx
    from pptx.util import Inches

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Returns"
    slide.placeholders[1].text = "Within fourteen days\nWithout a reason"
    slide.placeholders[1].text_frame.paragraphs[1].level = 1
    slide.notes_slide.notes_text_frame.text = "Mention the label."
    deck.slides.add_slide(deck.slide_layouts[6])
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    table = slide.shapes.add_table(2, 2, 0, 0, Inches(2), Inches(1)).table
    for row, texts in enumerate([("zone", "days"), ("A", "3")]):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = "in a group"
    return deck


def test_slides_with_titles_lists_tables_groups_and_notes(
    parse_one: ParseOne, to_bytes: ToBytes
) -> None:
    parsed = parse_one(to_bytes(presentation()), "file:a.pptx")
    assert parsed.segments == (
        Segment(
            text="# Returns\n\n- Within fourteen days\n  - Without a reason\n\n"
            "Notes: Mention the label.",
            kind="slide",
            label="1",
        ),
        Segment(
            text="| zone | days |\n| --- | --- |\n| A | 3 |\n\nin a group", kind="slide", label="3"
        ),
    )
    assert parsed.title is None  # "PowerPoint Presentation" is a placeholder


def test_bounds_and_bad_files(refuse: Refuse, to_bytes: ToBytes, docx_bytes: Any) -> None:
    import pptx

    data = to_bytes(presentation())
    config = IngestConfig(limits=IngestLimits(max_pages=2))
    assert refuse(data, "file:a.pptx", config=config).reason == "too_many_pages"
    assert refuse(data[:-100], "file:a.pptx").reason == "broken_file"
    assert refuse(to_bytes(pptx.Presentation()), "file:a.pptx").reason == "no_text"
