"""Presentations: one segment a slide, its title as a heading, notes at its end."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import PPTX
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.parsing.office import check_pages, office_document
from pipeline_lib.corpus.parsing.packages import open_package
from pipeline_lib.corpus.parsing.tables import markdown_table
from pipeline_lib.corpus.sources.base import SourceInput

_FURNITURE = frozenset({"DATE", "FOOTER", "HEADER", "SLIDE_NUMBER"})
"""Placeholders that every slide repeats."""


def parse_pptx(item: SourceInput, data: bytes, config: IngestConfig) -> Iterator[ParsedDocument]:
    """Slides with text, labelled by their number from 1. Hidden slides count as well."""
    import pptx

    open_package(data, config, "PowerPoint").close()
    try:
        presentation = pptx.Presentation(io.BytesIO(data))
    except (ValueError, KeyError) as error:
        detail = f"not a valid PowerPoint file: {error}"
        raise RefusedInputError(DropReason.BROKEN_FILE, detail) from error
    num_slides = len(presentation.slides)
    check_pages(num_slides, "slides", config)
    segments = []
    for number, slide in enumerate(presentation.slides, start=1):
        text = "\n\n".join(_slide_blocks(slide))
        if text:
            segments.append(Segment(text=text, kind="slide", label=str(number)))
    if not segments:
        raise RefusedInputError(DropReason.NO_TEXT, f"no text on {num_slides} slides")
    yield office_document(item, PPTX, segments, presentation.core_properties)


def _slide_blocks(slide: Any) -> Iterator[str]:
    title = slide.shapes.title
    if title is not None and (text := " ".join(title.text_frame.text.split())):
        yield f"# {text}"
    title_id = None if title is None else title.shape_id
    for shape in _flat(slide.shapes):
        if shape.shape_id != title_id and not _is_furniture(shape):
            yield from _shape_blocks(shape)
    if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None:
        notes = frame.text.strip()
        if notes:
            yield f"Notes: {notes}"


def _flat(shapes: Iterable[Any]) -> Iterator[Any]:
    """Shapes in drawing order, those of groups as well."""
    stack = list(reversed(list(shapes)))
    while stack:
        shape = stack.pop()
        if hasattr(shape, "shapes"):
            stack.extend(reversed(list(shape.shapes)))
        else:
            yield shape


def _is_furniture(shape: Any) -> bool:
    return shape.is_placeholder and shape.placeholder_format.type.name in _FURNITURE


def _shape_blocks(shape: Any) -> Iterator[str]:
    if getattr(shape, "has_table", False):
        table = markdown_table([[cell.text for cell in row.cells] for row in shape.table.rows])
        if table:
            yield table
    elif shape.has_text_frame:
        paragraphs = [p for p in shape.text_frame.paragraphs if p.text.strip()]
        is_list = len(paragraphs) > 1 and shape.is_placeholder
        lines = [_paragraph(paragraph, is_list) for paragraph in paragraphs]
        if lines:
            yield ("\n" if is_list else "\n\n").join(lines)


def _paragraph(paragraph: Any, is_list: bool) -> str:
    text = " ".join(paragraph.text.split())
    return f"{'  ' * paragraph.level}- {text}" if is_list else text
