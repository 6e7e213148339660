"""From the bytes of one input to the texts in it.

Parsers are plain functions by media type. What they cannot read becomes a `Drop` that says why;
they never end the stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, Field, ValidationError

from pipeline_lib.corpus.decoding import decode
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources import (
    HTML,
    JSONL,
    MARKDOWN,
    PLAIN_TEXT,
    RESTRUCTURED_TEXT,
    RawInput,
)

_EMPHASIS = ("b", "strong", "i", "em", "u")


@dataclass(frozen=True, kw_only=True)
class ParsedDocument:
    """Text as it was found, before cleaning."""

    source_uri: str
    media_type: str
    text: str
    title: str | None
    """What the source itself calls it; `None`: look for a heading."""
    name: str
    """Title when there is neither title nor heading."""
    encoding: str


def parse(raw: RawInput, data: bytes) -> Iterator[ParsedDocument | Drop]:
    """The documents in one input, in order; at least one document or drop."""
    try:
        yield from _PARSERS[raw.media_type](raw, data)
    except RefusedInputError as refusal:
        yield refusal.to_drop(raw.source_uri)


def _parse_text(raw: RawInput, data: bytes) -> Iterator[ParsedDocument]:
    decoded = decode(data)
    yield ParsedDocument(
        source_uri=raw.source_uri,
        media_type=raw.media_type,
        text=decoded.text,
        title=None,
        name=raw.name,
        encoding=decoded.encoding,
    )


def _parse_html(raw: RawInput, data: bytes) -> Iterator[ParsedDocument]:
    """Main content as Markdown, without emphasis: its asterisks would end up inside quotes."""
    import trafilatura

    decoded = decode(data, is_html=True)
    is_page = "<html" in decoded.text.lower()
    page = decoded.text if is_page else f"<html><body>{decoded.text}</body></html>"
    tree = trafilatura.load_html(page)
    if tree is None:
        raise RefusedInputError(DropReason.NO_MAIN_CONTENT, "not an HTML page")
    title = tree.findtext(".//title")
    for element in list(tree.iter(*_EMPHASIS)):
        element.drop_tag()
    text = trafilatura.extract(
        tree, output_format="markdown", include_comments=False, include_tables=True
    )
    if not text:
        raise RefusedInputError(DropReason.NO_MAIN_CONTENT, "no text beside navigation was found")
    yield ParsedDocument(
        source_uri=raw.source_uri,
        media_type=HTML,
        text=text,
        title=title,
        name=raw.name,
        encoding=decoded.encoding,
    )


class _Record(BaseModel):
    """One line of a JSONL source; further fields are ignored."""

    text: str
    id: str | int | None = Field(None, union_mode="left_to_right")
    title: str | None = None
    source: str | None = None
    url: str | None = None


def _parse_jsonl(raw: RawInput, data: bytes) -> Iterator[ParsedDocument | Drop]:
    decoded = decode(data)
    is_empty = True
    for number, line in enumerate(decoded.text.split("\n"), start=1):
        if not line.strip():
            continue
        is_empty = False
        try:
            record = _Record.model_validate_json(line)
        except ValidationError as error:
            yield _refused_line(raw, number, error)
            continue
        yield ParsedDocument(
            source_uri=_record_uri(raw, record),
            media_type=PLAIN_TEXT,
            text=record.text,
            title=record.title,
            name=str(record.id) if record.id is not None else raw.name,
            encoding=decoded.encoding,
        )
    if is_empty:
        raise RefusedInputError(DropReason.EMPTY, "the file holds no lines")


def _record_uri(raw: RawInput, record: _Record) -> str:
    """`<source, url or file>#<id>`; without either, a hash of the text stands for the id.

    Not the line number: a line inserted above must not rename every document below it.
    """
    origin = record.source or record.url
    if record.id is not None:
        return f"{origin or raw.source_uri}#{record.id}"
    if origin:
        return origin
    text_sha256 = hashlib.sha256(record.text.encode()).hexdigest()
    return f"{raw.source_uri}#text-{text_sha256[:16]}"


def _refused_line(raw: RawInput, number: int, error: ValidationError) -> Drop:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    is_broken = first["type"] == "json_invalid"
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].replace(" at line 1 column", " at column")  # it saw one line only
    return Drop(
        source_uri=f"{raw.source_uri}#line-{number}",
        reason=(DropReason.BROKEN_JSON if is_broken else DropReason.INVALID_RECORD).value,
        detail=f"line {number}: {field}: {message}" if field else f"line {number}: {message}",
    )


_PARSERS: Mapping[str, Callable[[RawInput, bytes], Iterator[ParsedDocument | Drop]]] = {
    PLAIN_TEXT: _parse_text,
    MARKDOWN: _parse_text,
    RESTRUCTURED_TEXT: _parse_text,
    HTML: _parse_html,
    JSONL: _parse_jsonl,
}
