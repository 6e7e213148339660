"""The corpus artifact: five parquet files, all in the order of the scan.

- `documents.parquet` and `chunks.parquet`: the corpus.
- `drops.parquet`: every input that did not become a document, with reason and remedy.
- `duplicates.parquet`: the documents that were dropped as copies, with their text. A copy of a
  document that is edited or removed can so take its place without being parsed again.
- `snapshot.parquet`: every input that was read, and what it is against the corpus before.

Offsets count Unicode code points of the cleaned document text, end exclusive:
`document.text[chunk.start:chunk.end] == chunk.text`, always.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DOCUMENTS_FILE = "documents.parquet"
CHUNKS_FILE = "chunks.parquet"
DROPS_FILE = "drops.parquet"
DUPLICATES_FILE = "duplicates.parquet"
SNAPSHOT_FILE = "snapshot.parquet"

_READ_BATCH_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Document:
    """One cleaned document."""

    document_id: str
    """Hash of `source_uri`: stable while the text changes."""
    source_uri: str
    title: str
    media_type: str
    text: str
    content_sha256: str
    """SHA-256 of the cleaned text, UTF-8."""
    input_uri: str = ""
    """The input it came from: its own URI, or that of the file that holds its record."""
    input_sha256: str = ""
    """SHA-256 of the input's bytes."""
    language: str = ""
    """ISO 639-1; empty when the text is too short to tell."""
    metadata_json: str = "{}"
    """What the source says of it (front matter, columns, headers): one JSON object."""
    sections: tuple[Section, ...] = ()
    """Headings and places, by start."""
    input_ordinal: int = 0
    """Position among the documents of its input, from 0."""
    encoding: str = ""
    """How the input's bytes became characters; empty for binary formats."""
    redactions_json: str = "{}"
    """What was taken out of its text, kind to count: one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Where a heading or a place (a page, a slide, a sheet) begins in a document's text."""

    start: int
    kind: str
    """`heading`, `page`, `slide`, `sheet`, `cell` or `part`."""
    label: str
    """The heading's text; the page's printed label or number; the sheet's name."""
    level: int = 0
    """1 to 6 for headings, 0 for places."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One passage of a document, the unit of retrieval and quotation."""

    chunk_id: str
    """UUID from the document's URI and the chunk's text (and its count among equal ones)."""
    document_id: str
    ordinal: int
    """Position in the document, from 0."""
    start: int
    end: int
    text: str
    num_tokens: int
    """Tokens of the embedding model, special tokens excluded."""
    heading_path: tuple[str, ...] = ()
    """The headings above its start, outermost first."""
    places: tuple[str, ...] = ()
    """The pages, slides or sheets that it touches, as `page 3`."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """An input that did not become a document, and why."""

    source_uri: str
    reason: str
    """Short machine-readable reason, for example `too_large`."""
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do to have it in the corpus."""
    input_uri: str = ""
    """The input that was read when it was found; empty for what was refused unread."""


@dataclass(frozen=True, kw_only=True)
class SnapshotEntry:
    """One input as this corpus saw it, and what that is against the corpus before."""

    input_uri: str
    content_sha256: str
    size_bytes: int
    change: str
    """`added`, `changed`, `unchanged` or `removed` (then the values are the last known)."""
    input_key: str = ""
    """Hash of all that the parsers were given: content, URI, and what the source says of it."""


_SECTION = pa.struct(
    [
        ("start", pa.int64()),
        ("kind", pa.string()),
        ("label", pa.string()),
        ("level", pa.int8()),
    ]
)
DOCUMENT_SCHEMA = pa.schema(
    [
        ("document_id", pa.string()),
        ("source_uri", pa.string()),
        ("title", pa.string()),
        ("media_type", pa.string()),
        ("text", pa.string()),
        ("content_sha256", pa.string()),
        ("input_uri", pa.string()),
        ("input_sha256", pa.string()),
        ("language", pa.string()),
        ("metadata_json", pa.string()),
        ("sections", pa.list_(_SECTION)),
        ("input_ordinal", pa.int32()),
        ("encoding", pa.string()),
        ("redactions_json", pa.string()),
    ]
)
CHUNK_SCHEMA = pa.schema(
    [
        ("chunk_id", pa.string()),
        ("document_id", pa.string()),
        ("ordinal", pa.int32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.string()),
        ("num_tokens", pa.int32()),
        ("heading_path", pa.list_(pa.string())),
        ("places", pa.list_(pa.string())),
    ]
)
DROP_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source_uri", "reason", "detail", "remedy", "input_uri")]
)
SNAPSHOT_SCHEMA = pa.schema(
    [
        ("input_uri", pa.string()),
        ("content_sha256", pa.string()),
        ("size_bytes", pa.int64()),
        ("change", pa.string()),
        ("input_key", pa.string()),
    ]
)


def row_from(record: object) -> dict[str, Any]:
    """A document, chunk, drop or snapshot entry as a row of its file."""
    row = dict(vars(record))
    if isinstance(record, Document):
        row["sections"] = [vars(section) for section in record.sections]
    return row


def document_from_row(row: Mapping[str, Any]) -> Document:
    """A document from a row of `documents.parquet`."""
    sections = tuple(Section(**section) for section in row["sections"])
    return Document(**{**row, "sections": sections})


def chunk_from_row(row: Mapping[str, Any]) -> Chunk:
    """A chunk from a row of `chunks.parquet`."""
    heading_path, places = tuple(row["heading_path"]), tuple(row["places"])
    return Chunk(**{**row, "heading_path": heading_path, "places": places})


def read_rows(
    path: Path, columns: list[str] | None = None, *, batch_rows: int = _READ_BATCH_ROWS
) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, in order, `batch_rows` in memory at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=batch_rows, columns=columns):
            yield from batch.to_pylist()


@dataclass(frozen=True)
class Corpus:
    """A whole corpus read back from its artifact folder; for stages that need all of it."""

    documents: tuple[Document, ...]
    chunks: tuple[Chunk, ...]

    @classmethod
    def load(cls, directory: Path) -> Corpus:
        """Read the corpus artifact in `directory`."""
        return cls(
            documents=tuple(map(document_from_row, read_rows(directory / DOCUMENTS_FILE))),
            chunks=tuple(map(chunk_from_row, read_rows(directory / CHUNKS_FILE))),
        )
