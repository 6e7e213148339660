"""Plain text of the training documents, for domain-adaptive pre-training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline_lib.corpus.schema import Document
from pipeline_lib.corpus.writing import ParquetWriter
from pipeline_lib.raft.rows import GROUP_ROWS, Split, iter_records

PRETRAINING_FILE = "pretraining.parquet"
PRETRAINING_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("document_id", "title", "text", "source_uri")]
)


class PretrainingText(BaseModel):
    """One document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    document_id: str
    title: str
    text: str
    source_uri: str


def write_pretraining(
    path: Path, documents: Iterable[Document], split_of: Mapping[str, Split]
) -> int:
    """Write the text of the documents that train, and say how many they are.

    Documents of the other splits, and those that have none, stay out: what a model has read it
    cannot be tested on.
    """
    num_documents = 0
    with ParquetWriter[PretrainingText](path, PRETRAINING_SCHEMA, max_rows=GROUP_ROWS) as writer:
        for document in documents:
            if split_of.get(document.document_id) == "train" and document.text.strip():
                writer.write(
                    PretrainingText(
                        document_id=document.document_id,
                        title=document.title,
                        text=document.text,
                        source_uri=document.source_uri,
                    )
                )
                num_documents += 1
    return num_documents


def iter_pretraining(path: Path) -> Iterator[PretrainingText]:
    """Read what `write_pretraining` wrote, a batch in memory at a time."""
    return iter_records(path, PretrainingText)
