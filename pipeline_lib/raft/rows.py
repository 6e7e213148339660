"""The RAFT row: structure, not text.

A row names its passages by chunk id and its quotes by offsets, so that whether a quote is verbatim
can be checked at any time and the text a model sees is decided in one place (`raft.rendering`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, model_validator

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Passage(_Frozen):
    """One context document of a row, in the place where the model sees it."""

    chunk_id: str
    document_id: str
    title: str
    text: str
    role: Literal["oracle", "distractor"]
    origin: Literal["oracle", "retrieved", "random", "adversarial"]
    rank: int | None = None
    """Rank in the retrieval that brought it, from 1; `None` when it was not retrieved."""
    score: float | None = None


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

    question_source: Literal["teacher", "user"]
    answer_source: Literal["teacher", "user"]
    teacher_model: str
    prompt_version: str
    seed: int


class RaftRow(_Frozen):
    """One training or evaluation example."""

    row_id: str
    split: Split
    question: str
    context: tuple[Passage, ...]
    oracle_chunk_id: str
    oracle_document_id: str
    oracle_present: bool
    target: Literal["answer", "memorise", "refuse"]
    reasoning: tuple[ReasoningStep, ...]
    final_answer: str
    provenance: Provenance

    @property
    def quotes(self) -> tuple[Quote, ...]:
        """The quotes of the reasoning, in order."""
        return tuple(step.quote for step in self.reasoning if step.quote is not None)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        ids = [passage.chunk_id for passage in self.context]
        if len(set(ids)) != len(ids):
            raise ValueError(f"row {self.row_id}: a passage appears twice in the context")
        oracles = [p.chunk_id for p in self.context if p.role == "oracle"]
        if self.oracle_present != (oracles == [self.oracle_chunk_id]):
            raise ValueError(
                f"row {self.row_id}: oracle_present is {self.oracle_present} but the context's "
                f"oracles are {oracles}"
            )
        if self.oracle_present != (self.target == "answer"):
            raise ValueError(
                f"row {self.row_id}: target {self.target!r} with oracle_present "
                f"{self.oracle_present}"
            )
        texts = {passage.chunk_id: passage.text for passage in self.context}
        for quote in self.quotes:
            text = texts.get(quote.chunk_id)
            if text is None or text[quote.start : quote.end] != quote.text or not quote.text:
                raise ValueError(
                    f"row {self.row_id}: quote {quote.text[:60]!r} is not verbatim in a passage "
                    "of its context"
                )
        return self


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
    ]
)
_QUOTE = pa.struct(
    [("chunk_id", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("text", pa.string())]
)
ROW_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("split", pa.string()),
        ("question", pa.string()),
        ("context", pa.list_(_PASSAGE)),
        ("oracle_chunk_id", pa.string()),
        ("oracle_document_id", pa.string()),
        ("oracle_present", pa.bool_()),
        ("target", pa.string()),
        ("reasoning", pa.list_(pa.struct([("text", pa.string()), ("quote", _QUOTE)]))),
        ("final_answer", pa.string()),
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


def write_rows(path: Path, rows: Iterable[RaftRow]) -> None:
    """Write rows as parquet with `ROW_SCHEMA`."""
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=ROW_SCHEMA)
    pq.write_table(table, path)


def read_rows(path: Path) -> Sequence[RaftRow]:
    """Read and validate rows written by `write_rows`."""
    return [RaftRow.model_validate(record) for record in pq.read_table(path).to_pylist()]
