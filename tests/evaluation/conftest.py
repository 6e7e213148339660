"""Small hand-made evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline_lib.config import EvaluateConfig
from pipeline_lib.evaluation.records import (
    ArmAnswer,
    QuestionRecord,
    RecordedPassage,
    RecordedQuote,
)
from pipeline_lib.evaluation.report import LineageEntry, ReportContent, TrainingLog
from pipeline_lib.evaluation.scoring import answer_metrics, retrieval_metrics, summarize

QUICK = EvaluateConfig(num_bootstrap_samples=200, cutoffs=(1, 3))

ORACLE_TEXT = "A fox is red. It sleeps by day and hunts by night."
OTHER_TEXT = "A dog is brown. It sleeps by night and barks by day."

MadeQuote = tuple[str, str]
"""Text and status."""


def _passage(chunk_id: str, text: str, rank: int, is_oracle: bool) -> RecordedPassage:
    return RecordedPassage(
        chunk_id=chunk_id,
        document_id=f"doc-{chunk_id}",
        title=f"About {chunk_id}",
        source_uri=f"file:///{chunk_id}.md",
        text=text,
        rank=rank,
        score=1.0 / rank,
        is_oracle=is_oracle,
    )


def _quote(text: str, status: str) -> RecordedQuote:
    holder, start = next(
        (
            (n, t.find(text))
            for n, t in (("oracle", ORACLE_TEXT), ("other", OTHER_TEXT))
            if text in t
        ),
        (None, None),
    )
    return RecordedQuote(
        text=text,
        passage_number=1,
        status=status,  # type: ignore[arg-type]
        chunk_id=holder,
        start=start,
        end=None if start is None else start + len(text),
    )


def _answer(
    arm: str,
    final: str,
    *,
    quotes: Sequence[MadeQuote] = (),
    has_answer_tag: bool = True,
    text: str | None = None,
    sum_nll: float = 10.0,
) -> ArmAnswer:
    return ArmAnswer(
        arm=arm,  # type: ignore[arg-type]
        text=text if text is not None else " ".join([*(q for q, _ in quotes), final]),
        final_answer=final,
        has_answer_tag=has_answer_tag,
        is_refusal=False,
        finish_reason="stop",
        num_prompt_tokens=100,
        num_completion_tokens=20,
        quotes=tuple(_quote(*quote) for quote in quotes),
        sum_nll=sum_nll,
        num_target_tokens=10,
        metrics={},
    )


def _record(
    row_id: str,
    answers: Sequence[ArmAnswer],
    *,
    question: str = "What colour is a fox?",
    reference: str = "red",
    is_oracle_in_context: bool = True,
) -> QuestionRecord:
    names = ["oracle", "other"] if is_oracle_in_context else ["other", "third"]
    texts = {"oracle": ORACLE_TEXT, "other": OTHER_TEXT, "third": "Nothing about it."}
    return QuestionRecord(
        row_id=row_id,
        question=question,
        reference_answer=reference,
        reference_target=f"It is {reference}.",
        oracle_chunk_id="oracle",
        is_oracle_in_context=is_oracle_in_context,
        retrieved_chunk_ids=tuple(names),
        retrieval={},
        passages=tuple(
            _passage(name, texts[name], rank, name == "oracle")
            for rank, name in enumerate(names, start=1)
        ),
        answers=tuple(answers),
    )


def _score(records: Sequence[QuestionRecord], config: EvaluateConfig) -> list[QuestionRecord]:
    retrieval = retrieval_metrics(
        [record.retrieved_chunk_ids for record in records],
        [[record.oracle_chunk_id] for record in records],
        config.cutoffs,
    )
    arms = [answer.arm for answer in records[0].answers]
    metrics = {arm: answer_metrics(records, [r.answer(arm) for r in records]) for arm in arms}
    return [
        record.model_copy(
            update={
                "retrieval": retrieval[row],
                "answers": tuple(
                    answer.model_copy(update={"metrics": metrics[answer.arm][row]})
                    for answer in record.answers
                ),
            }
        )
        for row, record in enumerate(records)
    ]


@pytest.fixture
def quick_config() -> EvaluateConfig:
    """Few resamples, few cutoffs."""
    return QUICK


@pytest.fixture
def make_answer() -> Callable[..., ArmAnswer]:
    """An answer of one arm; quotes as (text, status)."""
    return _answer


@pytest.fixture
def make_record() -> Callable[..., QuestionRecord]:
    """A question with two passages: the oracle (if retrieved) and another."""
    return _record


@pytest.fixture
def score_records() -> Callable[[Sequence[QuestionRecord]], list[QuestionRecord]]:
    """Fill in retrieval and per-question metrics."""
    return lambda records: _score(records, QUICK)


@pytest.fixture
def records(
    score_records: Callable[[Sequence[QuestionRecord]], list[QuestionRecord]],
) -> list[QuestionRecord]:
    """Four questions; the candidate is right three times, the base once."""
    quote = ("A fox is red.", "verbatim")
    return score_records(
        [
            _record("r1", [
                _answer("base", "blue"),
                _answer("candidate", "red", quotes=[quote], sum_nll=5.0),
            ]),
            _record("r2", [
                _answer("base", "red", quotes=[("Foxes glow", "absent")]),
                _answer("candidate", "red", quotes=[quote, ("A dog is brown.", "misattributed")]),
            ]),
            _record("r3", [
                _answer("base", "it is green", has_answer_tag=False),
                _answer("candidate", "red", quotes=[quote], sum_nll=4.0),
            ]),
            _record("r4", [_answer("base", "brown"), _answer("candidate", "brown")],
                    is_oracle_in_context=False),
        ]
    )  # fmt: skip


@pytest.fixture
def make_content() -> Callable[..., ReportContent]:
    """Everything a report needs around some scored records."""

    def make(records: Sequence[QuestionRecord], **changes: Any) -> ReportContent:
        arms = [answer.arm for answer in records[0].answers]
        made_at = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
        values: dict[str, Any] = {
            "name": "demo",
            "reference": "evaluation/demo/" + "0" * 32,
            "made_at": made_at,
            "summary": summarize(records, arms, QUICK),
            "records": records,
            "models": {arm: f"model of {arm}" for arm in arms},
            "trainings": [
                TrainingLog(
                    objective="sft",
                    entries=[
                        {"step": 1, "loss": 2.0},
                        {"step": 2, "loss": 1.5},
                        {"step": 2, "eval_loss": 1.75},
                    ],
                )
            ],
            "funnel": {
                "num_candidates": 10,
                "num_rows": 4,
                "steps": [
                    {"name": "generated", "kept": 10, "dropped": {}},
                    {"name": "is_question", "kept": 4, "dropped": {"no_question_mark": 6}},
                ],
            },
            "rejects": [],
            "lineage": [
                LineageEntry(
                    role="dataset",
                    reference="dataset/demo/" + "1" * 32,
                    uri="s3://raftline/dataset/demo/" + "1" * 32,
                    made_at=made_at,
                    code_version="0.1.0",
                )
            ],
            "config": QUICK.model_dump(mode="json"),
            "libraries": {"torch": "2.13.0"},
            "code_version": "0.1.0",
        }
        return ReportContent(**{**values, **changes})

    return make
