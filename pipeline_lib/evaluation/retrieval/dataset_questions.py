"""A dataset's own questions as queries: each was written about chunks that it quotes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.manifest import Manifest
from pipeline_lib.corpus.schema import CHUNKS_FILE, read_rows
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.judgements import Judgements, Span
from pipeline_lib.raft.rows import SPLITS, RaftRow, read_questions, split_file


def dataset_judgements(dataset: Path, corpus: Path, split: str) -> Judgements:
    """The questions of a split, judged by oracle chunks, and by the spans they quote.

    Spans allow for other ways to cut the documents. A question that quotes nothing of an oracle
    chunk is judged by the whole chunk. Questions that the corpus does not answer are left out.

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
    wanted = {chunk_id for row in rows for chunk_id in row.oracle_chunk_ids}
    columns = ["chunk_id", "document_id", "start", "end"]
    chunks = {
        chunk["chunk_id"]: chunk
        for chunk in read_rows(corpus / CHUNKS_FILE, columns)
        if chunk["chunk_id"] in wanted
    }
    return Judgements(
        queries={row.row_id: row.question for row in rows},
        chunks={row.row_id: dict.fromkeys(row.oracle_chunk_ids, 1) for row in rows},
        documents={row.row_id: dict.fromkeys(row.oracle_document_ids, 1) for row in rows},
        spans={row.row_id: spans for row in rows if (spans := _spans(row, chunks))},
    )


def selection_caveat(dataset: Manifest) -> str:
    """What has to be known of how a dataset's questions were chosen; empty where nothing has.

    Questions that a teacher wrote pass the round trip gate of synthesis: those that a search did
    not find the passages of are not there to be asked. Questions of the user's are taken as they
    are.
    """
    top_k = dataset.config.get("gates", {}).get("round_trip_top_k", 0)
    if not top_k or dataset.config.get("qa_path"):
        return ""
    mode = dataset.config["retrieval"]["mode"]
    return (
        f"These questions flatter {mode} search: the dataset kept only those whose passages "
        f"{mode} search found among its first {top_k}."
    )


def _spans(row: RaftRow, chunks: Mapping[str, Mapping[str, Any]]) -> tuple[Span, ...]:
    """What a row quotes of its oracles, in their documents' offsets; none unless all are there."""
    if not all(chunk_id in chunks for chunk_id in row.oracle_chunk_ids):
        return ()
    spans = []
    for chunk_id, document_id in zip(row.oracle_chunk_ids, row.oracle_document_ids, strict=True):
        start, end = chunks[chunk_id]["start"], chunks[chunk_id]["end"]
        quoted = [
            Span(document_id, start + quote.start, start + quote.end, quote.text)
            for quote in row.quotes
            if quote.chunk_id == chunk_id
        ]
        spans += quoted or [Span(document_id, start, end)]
    return tuple(spans)


def _rows(dataset: Path, split: str) -> Iterator[RaftRow]:
    for each in SPLITS:
        if split in (each, "all"):
            yield from sorted(
                read_questions(dataset / split_file(each)), key=lambda row: row.row_id
            )
