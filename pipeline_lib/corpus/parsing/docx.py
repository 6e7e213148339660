"""Word documents as Markdown.

The body is walked in order: headings by style or outline level, paragraphs, lists with their
numbers, tables, content controls, text boxes (below the paragraph that anchors them). Insertions
that are tracked count, deletions do not. Footnotes and endnotes become Markdown footnotes. Headers,
footers and comments are left out: they are not part of the running text.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import DOCX
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.parsing.office import office_document
from pipeline_lib.corpus.parsing.packages import open_package, parse_xml
from pipeline_lib.corpus.parsing.tables import markdown_table
from pipeline_lib.corpus.sources.base import SourceInput

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_LEFT_OUT = {f"{_W}del", f"{_W}moveFrom", f"{_W}pPr", f"{_W}rPr", f"{_W}sdtPr", _FALLBACK}
_HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)
_MAX_LEVEL = 6
_MAX_STYLES = 20
"""Styles that a style is based on, one on another; a circle would have no end."""
_MAX_SPAN = 64
"""Word's own limit on columns is 63."""
_NOTES = ("footnotes", "endnotes")


def parse_docx(item: SourceInput, data: bytes, config: IngestConfig) -> Iterator[ParsedDocument]:
    """One segment: the body and its notes."""
    import docx

    open_package(data, config, "Word").close()
    try:
        document = docx.Document(io.BytesIO(data))
    except (ValueError, KeyError) as error:
        raise RefusedInputError(
            DropReason.BROKEN_FILE, f"not a valid Word file: {error}"
        ) from error
    walk = _Walk(_Styles(document), _Numbering(document))
    blocks = [*walk.blocks(document.element.body), *_notes(document, walk)]
    text = "\n\n".join(block for block in blocks if block.strip())
    if not text:
        raise RefusedInputError(DropReason.NO_TEXT, "no text in paragraphs, tables or text boxes")
    yield office_document(item, DOCX, [Segment(text=text)], document.core_properties)


class _Styles:
    """What a paragraph's style says of it, looked up along the styles it is based on."""

    def __init__(self, document: Any) -> None:
        self._by_id = {style.get(f"{_W}styleId"): style for style in document.styles.element}

    def chain(self, paragraph: Any) -> Iterator[Any]:
        """The paragraph itself, then its style, then the style's base."""
        yield paragraph
        identity = _value(paragraph, "pPr", "pStyle")
        for _ in range(_MAX_STYLES):
            style = self._by_id.get(identity)
            if style is None:
                return
            yield style
            identity = _value(style, "basedOn")

    def heading_level(self, paragraph: Any) -> int:
        """1 to 6; 0 for a paragraph of text."""
        for element in self.chain(paragraph):
            name = _value(element, "name") or ""
            if name.lower() == "title":
                return 1
            if match := _HEADING.fullmatch(name):
                return min(int(match[1]), _MAX_LEVEL)
            outline = _value(element, "pPr", "outlineLvl")
            if outline is not None and outline.isdigit():
                return int(outline) + 1 if int(outline) < _MAX_LEVEL else 0
        return 0

    def list_place(self, paragraph: Any) -> tuple[str, int] | None:
        """Which list the paragraph is an item of, and how deep in it, from 0."""
        for element in self.chain(paragraph):
            number = _value(element, "pPr", "numPr", "numId")
            if number is not None:
                depth = _value(element, "pPr", "numPr", "ilvl") or "0"
                return (number, int(depth)) if number != "0" and depth.isdigit() else None
        return None


class _Numbering:
    """Counts the items of numbered lists."""

    def __init__(self, document: Any) -> None:
        self._formats: dict[tuple[str, int], str] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        try:
            numbering = document.part.numbering_part.element
        except (KeyError, NotImplementedError):  # there is none
            return
        abstract = {a.get(f"{_W}abstractNumId"): a for a in numbering.iter(f"{_W}abstractNum")}
        for number in numbering.iter(f"{_W}num"):
            definition = abstract.get(_value(number, "abstractNumId"))
            for level in definition.iter(f"{_W}lvl") if definition is not None else ():
                key = (number.get(f"{_W}numId"), int(level.get(f"{_W}ilvl", "0")))
                self._formats[key] = _value(level, "numFmt") or "bullet"

    def mark(self, number: str, depth: int) -> str:
        """The Markdown mark of the next item."""
        for key in list(self._counts):
            if key[0] == number and key[1] > depth:
                del self._counts[key]
        if self._formats.get((number, depth), "bullet") in ("bullet", "none"):
            return "-"
        self._counts[number, depth] += 1
        return f"{self._counts[number, depth]}."


@dataclass
class _Walk:
    """Turns block elements into Markdown, and remembers the notes they refer to."""

    styles: _Styles
    numbering: _Numbering
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Kind and id, in the order of their references."""

    def blocks(self, parent: Any) -> Iterator[str]:
        """Lists are one block each, so that their items stay together."""
        items: list[str] = []
        for element in _wrapped(parent, f"{_W}p", f"{_W}tbl"):
            if element.tag == f"{_W}p" and (item := self._list_item(element)):
                items.append(item)
                continue
            if items:
                yield "\n".join(items)
                items = []
            yield from self._block(element)
        if items:
            yield "\n".join(items)

    def _block(self, element: Any) -> Iterator[str]:
        if element.tag == f"{_W}tbl":
            rows = _wrapped(element, f"{_W}tr")
            yield markdown_table([list(self._cells(row)) for row in rows])
            return
        text = self.text(element).strip()
        level = self.styles.heading_level(element)
        yield f"{'#' * level} {' '.join(text.split())}" if level and text else text
        for box in element.iter(f"{_W}txbxContent"):
            if not any(parent.tag in _LEFT_OUT for parent in box.iterancestors()):
                yield from self.blocks(box)

    def _list_item(self, paragraph: Any) -> str | None:
        place = self.styles.list_place(paragraph)
        if place is None or self.styles.heading_level(paragraph):
            return None
        text = " ".join(self.text(paragraph).split())
        return f"{'  ' * place[1]}{self.numbering.mark(*place)} {text}" if text else None

    def _cells(self, row: Any) -> Iterator[str]:
        """A cell that spans columns is followed by empty ones; tables in cells are their text."""
        for cell in _wrapped(row, f"{_W}tc"):
            yield " ".join(self.text(paragraph) for paragraph in cell.iter(f"{_W}p"))
            span = _value(cell, "tcPr", "gridSpan") or "1"
            yield from [""] * (min(int(span), _MAX_SPAN) - 1 if span.isdigit() else 0)

    def text(self, paragraph: Any) -> str:
        """Of runs, hyperlinks, fields and content controls, without what was deleted."""
        parts: list[str] = []
        stack = [paragraph]
        while stack:
            element = stack.pop()
            if element is not paragraph and (element.tag in _LEFT_OUT or _is_block(element)):
                continue
            if element.tag == f"{_W}t":
                parts.append(element.text or "")
            elif element.tag == f"{_W}tab":
                parts.append("\t")
            elif element.tag in (f"{_W}br", f"{_W}cr"):
                parts.append("\n")
            elif element.tag == f"{_W}noBreakHyphen":
                parts.append("-")
            elif element.tag in (f"{_W}footnoteReference", f"{_W}endnoteReference"):
                parts.append(self._note_mark(element))
            stack.extend(reversed(element))
        return "".join(parts)

    def _note_mark(self, reference: Any) -> str:
        kind = "footnotes" if reference.tag == f"{_W}footnoteReference" else "endnotes"
        self.notes.append((kind, reference.get(f"{_W}id")))
        return f"[^{len(self.notes)}]"


def _notes(document: Any, walk: _Walk) -> Iterator[str]:
    texts: dict[tuple[str, str], str] = {}
    for relation in document.part.rels.values():
        kind = relation.reltype.rpartition("/")[2]
        if kind in _NOTES and not relation.is_external:
            for note in parse_xml(relation.target_part.blob):
                paragraphs = note.iter(f"{_W}p")
                text = " ".join(" ".join(walk.text(entry).split()) for entry in paragraphs)
                texts[kind, note.get(f"{_W}id")] = text.strip()
    for number, key in enumerate(list(walk.notes), start=1):
        if key in texts:
            yield f"[^{number}]: {texts[key]}"


def _wrapped(parent: Any, *tags: str) -> Iterator[Any]:
    """The nearest descendants of these tags, in order, whatever is wrapped around them."""
    stack = list(reversed(parent))
    while stack:
        element = stack.pop()
        if element.tag in tags:
            yield element
        elif element.tag not in _LEFT_OUT:
            stack.extend(reversed(element))


def _is_block(element: Any) -> bool:
    return element.tag in (f"{_W}p", f"{_W}tbl", f"{_W}txbxContent")


def _value(element: Any, *path: str) -> str | None:
    """`w:val` of the element at `path` below."""
    found = element.find("/".join(f"{_W}{name}" for name in path))
    return None if found is None else found.get(f"{_W}val")
