"""The corpus artifact: `documents.parquet`, `chunks.parquet`, `drops.parquet`.

Offsets count Unicode code points of the cleaned document text, end exclusive:
`document.text[chunk.start:chunk.end] == chunk.text`, always.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DOCUMENTS_FILE = "documents.parquet"
CHUNKS_FILE = "chunks.parquet"
DROPS_FILE = "drops.parquet"


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


@dataclass(frozen=True, kw_only=True)
class Drop:
    """An input that did not become a document, and why."""

    source_uri: str
    reason: str
    """Short machine-readable reason, for example `too_large`."""
    detail: str
    """What was found and what to do about it."""


DOCUMENT_SCHEMA = pa.schema([(f.name, pa.string()) for f in fields(Document)])
CHUNK_SCHEMA = pa.schema(
    [
        ("chunk_id", pa.string()),
        ("document_id", pa.string()),
        ("ordinal", pa.int32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.string()),
        ("num_tokens", pa.int32()),
    ]
)
DROP_SCHEMA = pa.schema([(f.name, pa.string()) for f in fields(Drop)])


@dataclass(frozen=True)
class Corpus:
    """A corpus read back from its artifact folder."""

    documents: tuple[Document, ...]
    chunks: tuple[Chunk, ...]

    @classmethod
    def load(cls, directory: Path) -> Corpus:
        """Read the corpus artifact in `directory`."""
        return cls(
            documents=tuple(Document(**row) for row in _read(directory / DOCUMENTS_FILE)),
            chunks=tuple(Chunk(**row) for row in _read(directory / CHUNKS_FILE)),
        )


def _read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
