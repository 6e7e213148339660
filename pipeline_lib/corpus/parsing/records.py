"""Records as JSON Lines, one document a record; sources turn parquet and Arrow into such lines.

A record's URI is `<its URI column, or the file>#<id>`; without either, a hash of the text stands
for the id. Never the line number: a line inserted above must not rename every document below it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError, make_drop
from pipeline_lib.corpus.media_types import PLAIN_TEXT
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment, name_of
from pipeline_lib.corpus.parsing.decoding import decode
from pipeline_lib.corpus.parsing.metadata import json_ready, language_code
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import SourceInput

_ORIGIN_COLUMN = "source"
"""Where a record is from, when it has no column of the configured name."""
_JSON_OBJECT = TypeAdapter(dict[str, Any])


def parse_jsonl(
    item: SourceInput, data: bytes, config: IngestConfig
) -> Iterator[ParsedDocument | Drop]:
    """A document or a drop per line that is not blank."""
    decoded = decode(data)
    first_number = item.records.first_number if item.records else 1
    is_empty = True
    for number, line in enumerate(decoded.text.split("\n"), start=first_number):
        if not line.strip():
            continue
        is_empty = False
        try:
            yield _document(item, _read_line(line, config), decoded.encoding, config)
        except RefusedInputError as refusal:
            yield _refused(item, number, refusal)
    if is_empty:
        raise RefusedInputError(DropReason.EMPTY, "the file holds no lines")


def _read_line(line: str, config: IngestConfig) -> Mapping[str, Any]:
    max_bytes = config.limits.max_file_bytes
    if len(line) > max_bytes:
        detail = f"{len(line)} characters; ingest.limits.max_file_bytes is {max_bytes}"
        raise RefusedInputError(DropReason.TOO_LARGE, detail)
    try:
        return _JSON_OBJECT.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        message = first["msg"].replace(" at line 1 column", " at column")  # it saw one line only
        reason = DropReason.BROKEN_JSON
        if first["type"] != "json_invalid":
            reason = DropReason.INVALID_RECORD
        raise RefusedInputError(reason, message) from error


def _document(
    item: SourceInput, record: Mapping[str, Any], encoding: str, config: IngestConfig
) -> ParsedDocument:
    columns = config.records
    text = _text(record, config)
    identity = _optional(record, columns.id, str | int)
    origin = _optional(record, columns.uri, str) or _optional(record, _ORIGIN_COLUMN, str)
    return ParsedDocument(
        source_uri=_record_uri(item, origin, identity, text),
        media_type=PLAIN_TEXT,
        segments=(Segment(text=text),),
        title=_optional(record, columns.title, str) or None,
        name=name_of(_file_uri(item)) if identity is None else str(identity),
        encoding=encoding,
        language=language_code(record.get("language") or record.get("lang")),
        metadata=_metadata(record, config),
    )


def _text(record: Mapping[str, Any], config: IngestConfig) -> str:
    column, max_bytes = config.records.text, config.limits.max_file_bytes
    text = record.get(column)
    if not isinstance(text, str):
        found = "is missing" if text is None else f"holds {type(text).__name__}, not text"
        raise RefusedInputError(DropReason.INVALID_RECORD, f"{column}: {found}")
    num_bytes = len(text.encode("utf-8", "replace"))
    if num_bytes > max_bytes:
        detail = f"{num_bytes} bytes of text; ingest.limits.max_file_bytes is {max_bytes}"
        raise RefusedInputError(DropReason.TOO_LARGE, detail)
    return text


def _optional(record: Mapping[str, Any], column: str, kind: Any) -> Any:
    value = record.get(column)
    if value is None or isinstance(value, kind):
        return value
    detail = f"{column}: holds {type(value).__name__}, not {getattr(kind, '__name__', kind)}"
    raise RefusedInputError(DropReason.INVALID_RECORD, detail)


def _metadata(record: Mapping[str, Any], config: IngestConfig) -> dict[str, Any]:
    columns = config.records
    names = columns.metadata
    if names is None:
        used = {columns.text, columns.id, columns.title, columns.uri}
        names = tuple(name for name in record if name not in used)
    return json_ready({name: record[name] for name in names if name in record})


def _record_uri(
    item: SourceInput, origin: str | None, identity: str | int | None, text: str
) -> str:
    if identity is not None:
        return f"{origin or _file_uri(item)}#{identity}"
    if origin:
        return origin
    text_sha256 = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return f"{_file_uri(item)}#text-{text_sha256[:16]}"


def _file_uri(item: SourceInput) -> str:
    return item.records.file_uri if item.records else item.uri


def _refused(item: SourceInput, number: int, refusal: RefusedInputError) -> Drop:
    uri = f"{_file_uri(item)}#line-{number}"
    return make_drop(uri, refusal.reason, f"line {number}: {refusal.detail}")
