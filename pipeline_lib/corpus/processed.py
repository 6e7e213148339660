"""What became of one input, on its way from a parser process to the corpus.

Travels as one row of an Arrow table: the parser process makes the table, the parent writes it to
the shard's file without looking inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline_lib.corpus.schema import (
    CHUNK_SCHEMA,
    DOCUMENT_SCHEMA,
    DROP_SCHEMA,
    Chunk,
    Document,
    Drop,
    chunk_from_row,
    document_from_row,
    read_rows,
    row_from,
)

_CHUNKS = "chunks"
PROCESSED_SCHEMA = pa.schema(
    [
        (
            "documents",
            pa.list_(
                pa.struct([*DOCUMENT_SCHEMA, (_CHUNKS, pa.list_(pa.struct(list(CHUNK_SCHEMA))))])
            ),
        ),
        ("drops", pa.list_(pa.struct(list(DROP_SCHEMA)))),
    ]
)


@dataclass(frozen=True)
class ProcessedDocument:
    """A document and its chunks."""

    document: Document
    chunks: tuple[Chunk, ...] | None
    """`None`: not cut yet."""


@dataclass(frozen=True)
class ProcessedInput:
    """The documents of one input and what was dropped of it; at least one of either."""

    documents: tuple[ProcessedDocument, ...]
    drops: tuple[Drop, ...]


def to_table(processed: ProcessedInput) -> pa.Table:
    """One row of `PROCESSED_SCHEMA`."""
    documents = [
        {**row_from(each.document), _CHUNKS: [row_from(chunk) for chunk in each.chunks or ()]}
        for each in processed.documents
    ]
    drops = [row_from(drop) for drop in processed.drops]
    return pa.Table.from_pylist([{"documents": documents, "drops": drops}], PROCESSED_SCHEMA)


def read_processed(path: Path) -> Iterator[ProcessedInput]:
    """The rows of a shard's file, in order, one in memory at a time beside their row group."""
    return (_from_row(row) for row in read_rows(path, batch_rows=1))


def _from_row(row: Mapping[str, Any]) -> ProcessedInput:
    documents = []
    for values in row["documents"]:
        chunks = tuple(map(chunk_from_row, values.pop(_CHUNKS)))
        documents.append(ProcessedDocument(document_from_row(values), chunks))
    return ProcessedInput(tuple(documents), tuple(Drop(**drop) for drop in row["drops"]))
