"""Which rows people look at, and what they need to see of them.

Rows are drawn by a hash of their id: the same rows whenever the same dataset is asked for, evenly
from all that qualify, so that the share of accepted rows is an estimate for the whole dataset.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.corpus.schema import CHUNKS_FILE, DOCUMENTS_FILE
from pipeline_lib.errors import ArtifactNotFoundError, InputError
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.review.verdicts import Verdict, Verdicts
from pipeline_lib.raft.rows import SPLITS, RaftRow, Split, split_file
from pipeline_lib.stage import Workspace

logger = logging.getLogger(__name__)

_BATCH_ROWS = 4096
_FACT_COLUMNS = ("row_id", "task", "kind", "question", "source_document_id")
_FACT_COLUMNS_AND_ANSWER = (*_FACT_COLUMNS, "target", "final_answer")


@dataclass(frozen=True, kw_only=True)
class ReviewPassage:
    """A passage as a reviewer sees it."""

    chunk_id: str
    number: int | None
    """From 1, as the model sees it; `None` for an oracle that this row's context leaves out."""
    is_oracle: bool
    title: str
    text: str
    origin: str
    change: str
    source_uri: str
    """Empty when the corpus is gone."""


@dataclass(frozen=True, kw_only=True)
class ReviewRow:
    """A row with all that is needed to judge it."""

    row: RaftRow
    passages: tuple[ReviewPassage, ...]
    """Oracles first, then the rest in the model's order."""
    verdict: Verdict | None
    """The one that holds now."""


@dataclass(frozen=True, kw_only=True)
class ReviewSample:
    """Rows of one dataset, drawn for review."""

    dataset: ArtifactRef
    rows: tuple[ReviewRow, ...]
    """In random order, so that the first few are a sample too."""
    num_eligible: int
    """Rows that could have been drawn."""
    num_reviewed: int
    """Rows of the dataset that have a verdict."""


@dataclass(frozen=True)
class RowFacts:
    """What an import needs to know of a row."""

    row_id: str
    question: str
    document_id: str
    answer: str
    is_refusal: bool


def draw_sample(
    ws: Workspace,
    dataset: ArtifactRef,
    *,
    num_rows: int,
    splits: Collection[Split] = SPLITS,
    kinds: Collection[str] = (),
    with_reviewed: bool = False,
) -> ReviewSample:
    """Draw rows of the task `answer` for review.

    Memory holds the drawn rows only.

    Args:
        ws: live services.
        dataset: from which.
        num_rows: how many at most.
        splits: of which splits.
        kinds: of which kinds of questions; empty: of all.
        with_reviewed: whether rows that have a verdict are drawn again.

    Raises:
        ArtifactNotFoundError: there is no such dataset.
        InputError: no row qualifies.
    """
    folder = ws.artifacts.directory(dataset)
    verdicts = Verdicts.load(ws, dataset.name)
    ranked: list[tuple[float, str]] = []
    num_eligible = num_reviewed = 0
    for split, row in _scan(folder, splits, _FACT_COLUMNS):
        if kinds and row["kind"] not in kinds:
            continue
        is_reviewed = (
            verdicts.find_by(row["row_id"], row["source_document_id"], row["question"]) is not None
        )
        num_reviewed += is_reviewed
        if is_reviewed and not with_reviewed:
            continue
        num_eligible += 1
        # The smallest ranks, as the largest of their negatives.
        entry = (-unit_interval("review", row["row_id"]), f"{split}/{row['row_id']}")
        if len(ranked) < num_rows:
            heapq.heappush(ranked, entry)
        elif entry > ranked[0]:
            heapq.heapreplace(ranked, entry)
    if not ranked:
        raise InputError(
            f"{dataset} has no row to review: {num_reviewed:,} have a verdict already, others are "
            "of other splits or kinds",
            hint="Add --reviewed to see rows that have a verdict again.",
        )
    chosen = [name.partition("/")[2] for _, name in sorted(ranked, reverse=True)]
    rows = _read_rows(folder, splits, chosen)
    sources = _Sources.read(ws, dataset, rows)
    return ReviewSample(
        dataset=dataset,
        rows=tuple(
            ReviewRow(row=row, passages=sources.passages(row), verdict=verdicts.find(row))
            for row in rows
        ),
        num_eligible=num_eligible,
        num_reviewed=num_reviewed,
    )


def find_facts(
    folder: Path, row_ids: Collection[str], questions: Collection[str]
) -> list[RowFacts]:
    """What a dataset says of the rows with these ids, or with these questions word for word."""
    return [
        RowFacts(
            row_id=row["row_id"],
            question=row["question"],
            document_id=row["source_document_id"],
            answer=row["final_answer"],
            is_refusal=row["target"] == "refuse",
        )
        for _, row in _scan(folder, SPLITS, _FACT_COLUMNS_AND_ANSWER)
        if row["row_id"] in row_ids or row["question"] in questions
    ]


def _scan(
    folder: Path, splits: Collection[Split], columns: Sequence[str]
) -> Iterator[tuple[Split, Mapping[str, Any]]]:
    """Some columns of the rows of the task `answer`."""
    for split in SPLITS:
        if split not in splits:
            continue
        with pq.ParquetFile(folder / split_file(split)) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
                for row in batch.to_pylist():
                    if row["task"] == "answer":
                        yield split, row


def _read_rows(folder: Path, splits: Collection[Split], row_ids: Sequence[str]) -> list[RaftRow]:
    """Whole rows, in the order of `row_ids`."""
    found: dict[str, RaftRow] = {}
    for split in splits:
        table = pq.read_table(folder / split_file(split), filters=[("row_id", "in", row_ids)])
        found |= {row["row_id"]: RaftRow.model_validate(row) for row in table.to_pylist()}
    return [found[row_id] for row_id in row_ids]


@dataclass(frozen=True)
class _Sources:
    """What the corpus adds to rows: oracles that they leave out, and where documents are from."""

    chunks: Mapping[str, Mapping[str, Any]]
    documents: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, ws: Workspace, dataset: ArtifactRef, rows: Sequence[RaftRow]) -> _Sources:
        """From the corpus that the dataset was made from; nothing when that is gone."""
        try:
            folder = ws.artifacts.directory(ws.artifacts.manifest(dataset).input_refs["corpus"])
        except (ArtifactNotFoundError, KeyError):
            logger.warning(
                "The corpus of %s is gone: oracles outside contexts are missing", dataset
            )
            return cls({}, {})
        shown = {passage.chunk_id for row in rows for passage in row.context}
        missing = {each for row in rows for each in row.oracle_chunk_ids} - shown
        documents = {p.document_id for row in rows for p in row.context}
        documents |= {each for row in rows for each in row.oracle_document_ids}
        return cls(
            _by_id(folder / CHUNKS_FILE, "chunk_id", missing, ["document_id", "text"]),
            _by_id(folder / DOCUMENTS_FILE, "document_id", documents, ["title", "source_uri"]),
        )

    def passages(self, row: RaftRow) -> tuple[ReviewPassage, ...]:
        """A row's passages, and the oracles that it leaves out."""
        there = [
            ReviewPassage(
                chunk_id=passage.chunk_id,
                number=number,
                is_oracle=passage.role == "oracle",
                title=passage.title,
                text=passage.text,
                origin=passage.origin,
                change=passage.change,
                source_uri=self._document(passage.document_id)["source_uri"],
            )
            for number, passage in enumerate(row.context, start=1)
        ]
        shown = {passage.chunk_id for passage in row.context}
        left_out = [
            ReviewPassage(
                chunk_id=chunk_id,
                number=None,
                is_oracle=True,
                **self._document(self.chunks[chunk_id]["document_id"]),
                text=self.chunks[chunk_id]["text"],
                origin="oracle",
                change="",
            )
            for chunk_id in row.oracle_chunk_ids
            if chunk_id not in shown and chunk_id in self.chunks
        ]
        return (*left_out, *sorted(there, key=lambda passage: not passage.is_oracle))

    def _document(self, document_id: str) -> dict[str, str]:
        found = self.documents.get(document_id, {})
        return {name: found.get(name, "") for name in ("title", "source_uri")}


def _by_id(
    path: Path, column: str, wanted: Collection[str], columns: list[str]
) -> dict[str, Mapping[str, Any]]:
    if not wanted:
        return {}
    chosen = [(column, "in", sorted(wanted))]
    table = pq.read_table(path, columns=[column, *columns], filters=chosen)
    return {row[column]: row for row in table.to_pylist()}
