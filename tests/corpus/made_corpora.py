"""Chunks made by hand, and a corpus as the files that ingestion leaves."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.corpus.schema import (
    CHUNK_SCHEMA,
    CHUNKS_FILE,
    DOCUMENT_SCHEMA,
    DOCUMENTS_FILE,
    Chunk,
    Corpus,
    row_from,
)


def make_chunk(
    chunk_id: str, text: str, document_id: str = "", *, ordinal: int = 0, start: int = 0
) -> Chunk:
    """A chunk that begins its document, by default one of its own; a token is a word."""
    return Chunk(
        chunk_id=chunk_id,
        document_id=document_id or f"doc-{chunk_id}",
        ordinal=ordinal,
        start=start,
        end=start + len(text),
        text=text,
        num_tokens=len(text.split()),
    )


def write_corpus(folder: Path, corpus: Corpus) -> None:
    """The documents and chunks, without what only ingestion needs."""
    for records, schema, file in (
        (corpus.documents, DOCUMENT_SCHEMA, DOCUMENTS_FILE),
        (corpus.chunks, CHUNK_SCHEMA, CHUNKS_FILE),
    ):
        rows = [row_from(record) for record in records]
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / file)
