"""The RAFT row: structure, not text.

A row names its passages by chunk id and its quotes by offsets, so that whether a quote is verbatim
can be checked at any time and the text a model sees is decided in one place (`raft.rendering`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Self, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, model_validator

from pipeline_lib.corpus.schema import read_rows as read_parquet_rows
from pipeline_lib.corpus.writing import ParquetWriter

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Task = Literal["answer", "relevance", "ranking", "quotes", "refusal", "closed_book"]
TASKS: tuple[Task, ...] = ("answer", "relevance", "ranking", "quotes", "refusal", "closed_book")
Origin = Literal["oracle", "retrieved", "random", "same_document", "adversarial", "contradicting"]
Target = Literal["answer", "memorise", "refuse"]

GROUP_ROWS = 256
"""Rows, or what is derived from them, of a row group, and in memory at a time."""

_Record = TypeVar("_Record", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Passage(_Frozen):
    """One context document of a row, in the place where the model sees it."""

    chunk_id: str
    """Of the corpus; for a passage that was made up (`adversarial`, `contradicting`) an id of its
    own that no chunk has."""
    document_id: str
    title: str
    text: str
    role: Literal["oracle", "distractor"]
    origin: Origin
    rank: int | None = None
    """Rank in the retrieval that brought it, from 1; `None` when it was not retrieved."""
    score: float | None = None
    source_chunk_id: str = ""
    """The chunk that a made-up passage was made from; else empty."""
    change: str = ""
    """What was changed in it, for people: `number: 1991 -> 1973`; else empty."""


class Quote(_Frozen):
    """A verbatim span of a chunk: `chunk.text[start:end] == text`, code points, end exclusive."""

    chunk_id: str
    start: int
    end: int
    text: str


class ReasoningStep(_Frozen):
    """Some reasoning, optionally resting on the quote that follows it."""

    text: str
    quote: Quote | None = None


class Provenance(_Frozen):
    """Where a row came from."""

    question_source: Literal["teacher", "user", "reviewer"]
    answer_source: Literal["teacher", "user", "reviewer"]
    teacher_model: str
    prompt_version: str
    """Hash of the templates that its texts were asked for with."""
    seed: int


class RaftRow(_Frozen):
    """One training or evaluation example."""

    row_id: str
    """The same question about the same passages has it in every dataset; see
    `pipeline_lib.raft.keys`."""
    row_key: str
    """Hash of all that the row rests on: its passages' texts, prompts, teacher and seed."""
    split: Split
    task: Task
    kind: str
    """What sort of question: `factual`, `multi_hop`, …; `user` for the user's own."""
    style: str
    question: str
    context: tuple[Passage, ...]
    """Empty for `closed_book`."""
    oracle_chunk_ids: tuple[str, ...]
    """The passages that answer together; empty for a question that the corpus does not answer."""
    oracle_document_ids: tuple[str, ...]
    """Their documents, in the same order."""
    source_document_id: str
    """The document whose split the row is in: the first oracle's, or for an unanswerable question
    the one that it was written about."""
    oracle_present: bool
    """Whether the context holds every oracle passage."""
    target: Target
    reasoning: tuple[ReasoningStep, ...]
    final_answer: str
    context_group: str = ""
    """Rows of a split with the same name (not empty) have the same context in the same order."""
    base_row_id: str = ""
    """The `answer` row that a row of another task was made from; else empty."""
    provenance: Provenance

    @property
    def quotes(self) -> tuple[Quote, ...]:
        """The quotes of the reasoning, in order."""
        return tuple(step.quote for step in self.reasoning if step.quote is not None)

    @property
    def oracle_chunk_id(self) -> str:
        """The first oracle passage; empty where there is none."""
        return self.oracle_chunk_ids[0] if self.oracle_chunk_ids else ""

    @property
    def oracle_document_id(self) -> str:
        """The first oracle's document; empty where there is none."""
        return self.oracle_document_ids[0] if self.oracle_document_ids else ""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        problem = _passages_problem(self) or _target_problem(self) or _quotes_problem(self) or None
        if problem is not None:
            raise ValueError(f"row {self.row_id}: {problem}")
        return self


def _passages_problem(row: RaftRow) -> str | None:
    ids = [passage.chunk_id for passage in row.context]
    if len(set(ids)) != len(ids):
        return "a passage appears twice in the context"
    if len(row.oracle_chunk_ids) != len(row.oracle_document_ids):
        return "oracle chunks and documents differ in number"
    oracles = {passage.chunk_id for passage in row.context if passage.role == "oracle"}
    wanted = set(row.oracle_chunk_ids)
    is_there = bool(wanted) and oracles == wanted
    if row.oracle_present != is_there or (oracles and not is_there):
        return (
            f"oracle_present is {row.oracle_present} but the context's oracles are "
            f"{sorted(oracles)} of {sorted(wanted)}"
        )
    if (row.task == "closed_book") == bool(row.context):
        return f"task {row.task!r} with {len(row.context)} passages"
    if (row.task == "answer") == bool(row.base_row_id):
        return f"task {row.task!r} with base_row_id {row.base_row_id!r}"
    return None


def _target_problem(row: RaftRow) -> str | None:
    expected: dict[Task, bool] = {
        "answer": row.oracle_present == (row.target == "answer"),
        "refusal": row.target == "refuse" and not row.oracle_present,
        "closed_book": row.target == "memorise",
        "relevance": row.target == "answer",
        "ranking": row.target == "answer" and row.oracle_present,
        "quotes": row.target == "answer" and row.oracle_present,
    }
    if not expected[row.task]:
        return (
            f"target {row.target!r} of task {row.task!r} with oracle_present {row.oracle_present}"
        )
    if not row.oracle_chunk_ids and row.target == "memorise":
        return "a question without oracle has nothing to memorise"
    return None


def _quotes_problem(row: RaftRow) -> str | None:
    texts = {p.chunk_id: p.text for p in row.context if p.role == "oracle"}
    for quote in row.quotes:
        text = texts.get(quote.chunk_id)
        if text is None or text[quote.start : quote.end] != quote.text or not quote.text:
            return f"quote {quote.text[:60]!r} is not verbatim in an oracle passage of its context"
    return None


_PASSAGE = pa.struct(
    [
        ("chunk_id", pa.string()),
        ("document_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("role", pa.string()),
        ("origin", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("source_chunk_id", pa.string()),
        ("change", pa.string()),
    ]
)
_QUOTE = pa.struct(
    [("chunk_id", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("text", pa.string())]
)
_STEP = pa.struct([("text", pa.string()), ("quote", _QUOTE)])
ROW_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("row_key", pa.string()),
        ("split", pa.string()),
        ("task", pa.string()),
        ("kind", pa.string()),
        ("style", pa.string()),
        ("question", pa.string()),
        ("context", pa.list_(_PASSAGE)),
        ("oracle_chunk_ids", pa.list_(pa.string())),
        ("oracle_document_ids", pa.list_(pa.string())),
        ("source_document_id", pa.string()),
        ("oracle_present", pa.bool_()),
        ("target", pa.string()),
        ("reasoning", pa.list_(_STEP)),
        ("final_answer", pa.string()),
        ("context_group", pa.string()),
        ("base_row_id", pa.string()),
        (
            "provenance",
            pa.struct(
                [
                    ("question_source", pa.string()),
                    ("answer_source", pa.string()),
                    ("teacher_model", pa.string()),
                    ("prompt_version", pa.string()),
                    ("seed", pa.int64()),
                ]
            ),
        ),
    ]
)


def split_file(split: Split) -> str:
    """Name of a split's file in the dataset artifact."""
    return f"{split}.parquet"


class RowWriter(ParquetWriter[RaftRow]):
    """Writes rows to one parquet file with `ROW_SCHEMA`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, ROW_SCHEMA, max_rows=GROUP_ROWS)


def write_rows(path: Path, rows: Iterable[RaftRow]) -> None:
    """Write rows as parquet with `ROW_SCHEMA`."""
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)


def iter_rows(path: Path) -> Iterator[RaftRow]:
    """Read and validate rows written by `write_rows`, a batch in memory at a time."""
    return iter_records(path, RaftRow)


def iter_records(path: Path, model: type[_Record]) -> Iterator[_Record]:
    """Read and validate models that a `ParquetWriter` wrote, a batch in memory at a time."""
    return map(model.model_validate, read_parquet_rows(path, batch_rows=GROUP_ROWS))


def read_rows(path: Path) -> list[RaftRow]:
    """All rows of a file; see `iter_rows`."""
    return list(iter_rows(path))


def read_questions(path: Path) -> list[RaftRow]:
    """The rows of a file that ask for an answer which the corpus has.

    That is what evaluation and retrieval can be measured on; see `why_no_question`.
    """
    return [row for row in iter_rows(path) if why_no_question(row) is None]


def why_no_question(row: RaftRow) -> Literal["other_task", "unanswerable"] | None:
    """Why a row does not ask for an answer which the corpus has; `None` where it does."""
    if row.task != "answer":
        return "other_task"
    return None if row.oracle_chunk_ids else "unanswerable"
