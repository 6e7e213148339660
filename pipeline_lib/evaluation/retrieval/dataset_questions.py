"""A dataset's own questions as queries: each was written about one chunk, and quotes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline_lib.corpus.schema import CHUNKS_FILE, read_rows
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.judgements import Judgements, Span
from pipeline_lib.raft.rows import SPLITS, RaftRow, split_file
from pipeline_lib.raft.rows import read_rows as read_dataset_rows


def dataset_judgements(dataset: Path, corpus: Path, split: str) -> Judgements:
    """The questions of a split, judged by oracle chunk, and by the spans they quote.

    Spans allow for other ways to cut the documents. A question that quotes nothing of its oracle
    chunk is judged by the whole chunk.

    Args:
        dataset: folder of the dataset artifact.
        corpus: folder of the corpus that it was made from.
        split: `train`, `validation`, `test`, or `all`.

    Raises:
        InputError: the split has no questions.
    """
    rows = list(_rows(dataset, split))
    if not rows:
        raise InputError(
            f"The dataset's {split} split has no questions",
            hint="Give another split, or 'all'.",
        )
    wanted = {row.oracle_chunk_id for row in rows}
    columns = ["chunk_id", "document_id", "start", "end"]
    chunks = {
        chunk["chunk_id"]: chunk
        for chunk in read_rows(corpus / CHUNKS_FILE, columns)
        if chunk["chunk_id"] in wanted
    }
    spans = {}
    for row in rows:
        chunk = chunks.get(row.oracle_chunk_id)
        if chunk is not None:
            quoted = [
                Span(
                    row.oracle_document_id, chunk["start"] + q.start, chunk["start"] + q.end, q.text
                )
                for q in row.quotes
                if q.chunk_id == row.oracle_chunk_id
            ]
            whole = Span(row.oracle_document_id, chunk["start"], chunk["end"])
            spans[row.row_id] = tuple(quoted or [whole])
    return Judgements(
        queries={row.row_id: row.question for row in rows},
        chunks={row.row_id: {row.oracle_chunk_id: 1} for row in rows},
        documents={row.row_id: {row.oracle_document_id: 1} for row in rows},
        spans=spans,
    )


def _rows(dataset: Path, split: str) -> Iterator[RaftRow]:
    for each in SPLITS:
        if split in (each, "all"):
            yield from sorted(
                read_dataset_rows(dataset / split_file(each)), key=lambda row: row.row_id
            )
