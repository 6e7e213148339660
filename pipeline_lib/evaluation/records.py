"""The evaluation artifact: `records.parquet` (per question), `metrics.json` (aggregates).

A record keeps everything that a number in `metrics.json` rests on, so that any of them can be
computed again, or looked into, without asking a model again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, ConfigDict

from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.raft.quotes import QuoteStatus

RECORDS_FILE = "records.parquet"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"

ArmName = Literal["base", "candidate", "champion"]
BASE: ArmName = "base"
CANDIDATE: ArmName = "candidate"
CHAMPION: ArmName = "champion"

Values = Annotated[dict[str, float], BeforeValidator(dict)]
"""Metric name to value; parquet maps come back as pairs."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordedPassage(_Frozen):
    """One retrieved passage, as every arm saw it."""

    chunk_id: str
    document_id: str
    title: str
    source_uri: str
    text: str
    rank: int
    score: float
    is_oracle: bool


class RecordedQuote(_Frozen):
    """One quote of an answer, checked against the passages."""

    text: str
    passage_number: int | None
    """The passage that the answer cites, counted from 1 as in the prompt."""
    status: QuoteStatus
    chunk_id: str | None
    """The passage that holds the quote."""
    start: int | None
    """Offsets into that passage's text, code points, end exclusive."""
    end: int | None


class ArmAnswer(_Frozen):
    """What one arm made of one question."""

    arm: ArmName
    text: str
    """Everything the model wrote."""
    final_answer: str
    """What was scored: the tagged final answer, else the whole text."""
    has_answer_tag: bool
    is_refusal: bool
    finish_reason: Literal["stop", "length"]
    num_prompt_tokens: int
    num_completion_tokens: int
    quotes: tuple[RecordedQuote, ...]
    sum_nll: float
    """Negative log-likelihood (nats) of `QuestionRecord.reference_target`, given the dataset's
    own context."""
    num_target_tokens: int
    metrics: Values
    """Per-question metrics; one that does not apply is missing."""


class QuestionRecord(_Frozen):
    """One evaluated question."""

    row_id: str
    question: str
    reference_answer: str
    reference_target: str
    oracle_chunk_id: str
    """The first, where several passages answer together; `passages` marks them all."""
    is_oracle_in_context: bool
    """Whether every oracle passage is among `passages`; only then is a quote expected."""
    retrieved_chunk_ids: tuple[str, ...]
    """Down to the largest cutoff, best first."""
    retrieval: Values
    passages: tuple[RecordedPassage, ...]
    """The context that every arm was given, in this order."""
    answers: tuple[ArmAnswer, ...]

    def answer(self, arm: str) -> ArmAnswer:
        """The answer of one arm.

        Raises:
            KeyError: that arm was not evaluated.
        """
        for answer in self.answers:
            if answer.arm == arm:
                return answer
        raise KeyError(arm)


class Comparison(_Frozen):
    """`arm` minus `against` on the same questions."""

    metric: str
    arm: ArmName
    against: ArmName
    difference: float
    low: float
    high: float
    p_value: float
    num: int

    @property
    def is_clear(self) -> bool:
        """The interval excludes 0."""
        return self.low > 0 or self.high < 0


class AnswerCounts(_Frozen):
    """How the answers of one arm look, whatever their content is worth."""

    num_answers: int
    num_with_answer_tag: int
    num_refusals: int
    num_truncated: int
    """Ended by the token limit."""
    num_with_quote: int
    quotes: dict[str, int]
    """Quote status to number of quotes."""


class EvaluationSummary(_Frozen):
    """The content of `metrics.json`."""

    evaluation_version: int
    split: str
    num_questions: int
    num_oracle_in_context: int
    context_size: int
    confidence: float
    arms: dict[str, dict[str, Estimate]]
    """Arm to metric to estimate; a metric that applies to no question is missing."""
    retrieval: dict[str, Estimate]
    comparisons: tuple[Comparison, ...]
    answers: dict[str, AnswerCounts]
    signatures: dict[str, str]
    """Metric to the signature of its implementation."""

    def comparison(self, metric: str, against: str) -> Comparison | None:
        """The candidate's comparison on a metric, if there is one."""
        for comparison in self.comparisons:
            if (comparison.metric, comparison.against) == (metric, against):
                return comparison
        return None


_STRING_LIST = pa.list_(pa.string())
_VALUES = pa.map_(pa.string(), pa.float64())
_PASSAGE = pa.struct(
    [
        ("chunk_id", pa.string()),
        ("document_id", pa.string()),
        ("title", pa.string()),
        ("source_uri", pa.string()),
        ("text", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("is_oracle", pa.bool_()),
    ]
)
_QUOTE = pa.struct(
    [
        ("text", pa.string()),
        ("passage_number", pa.int32()),
        ("status", pa.string()),
        ("chunk_id", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
    ]
)
_ANSWER = pa.struct(
    [
        ("arm", pa.string()),
        ("text", pa.string()),
        ("final_answer", pa.string()),
        ("has_answer_tag", pa.bool_()),
        ("is_refusal", pa.bool_()),
        ("finish_reason", pa.string()),
        ("num_prompt_tokens", pa.int32()),
        ("num_completion_tokens", pa.int32()),
        ("quotes", pa.list_(_QUOTE)),
        ("sum_nll", pa.float64()),
        ("num_target_tokens", pa.int32()),
        ("metrics", _VALUES),
    ]
)
RECORD_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("question", pa.string()),
        ("reference_answer", pa.string()),
        ("reference_target", pa.string()),
        ("oracle_chunk_id", pa.string()),
        ("is_oracle_in_context", pa.bool_()),
        ("retrieved_chunk_ids", _STRING_LIST),
        ("retrieval", _VALUES),
        ("passages", pa.list_(_PASSAGE)),
        ("answers", pa.list_(_ANSWER)),
    ]
)


def write_records(path: Path, records: Iterable[QuestionRecord]) -> None:
    """Write records as parquet with `RECORD_SCHEMA`."""
    table = pa.Table.from_pylist([r.model_dump() for r in records], schema=RECORD_SCHEMA)
    pq.write_table(table, path)


def read_records(path: Path) -> list[QuestionRecord]:
    """Read and validate records written by `write_records`."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [QuestionRecord.model_validate(row) for row in rows]


def read_summary(directory: Path) -> EvaluationSummary:
    """Read `metrics.json` of an evaluation artifact's folder."""
    return EvaluationSummary.model_validate_json((directory / METRICS_FILE).read_bytes())
