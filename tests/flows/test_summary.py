"""How results read."""

from __future__ import annotations

from typing import Any

import pytest

from flows.summary import (
    answer_markdown,
    answer_message,
    promotion_message,
    stage_message,
    stages_markdown,
    training_message,
)
from pipeline_lib.answering import Answer, AnsweredQuote
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.evaluation.promotion import PromotionResult
from pipeline_lib.stage import StageResult

REF = ArtifactRef(kind="corpus", name="docs", fingerprint="0123456789abcdef" * 2)


def stage_result(**changes: Any) -> StageResult:
    values: dict[str, Any] = {
        "ref": REF,
        "reused": False,
        "counts": {"num_documents": 79, "num_chunks": 1012},
        "dropped": {"too_large": 2},
        "metrics": {},
        "uri": f"s3://bucket/{REF}",
        "seconds": 3.14,
    }
    return StageResult(**(values | changes))


def test_a_stage_says_whether_it_was_built_or_reused() -> None:
    assert stage_message(stage_result()) == (f"Built {REF} in 3.1 s: documents 79, chunks 1,012")
    assert stage_message(stage_result(reused=True, counts={})) == f"Reused {REF}"


def test_a_training_says_what_became_of_its_validation_loss() -> None:
    measured = {"initial_validation_loss": 1.1001, "final_validation_loss": 0.5857}
    assert training_message(stage_result(metrics=measured, counts={})) == (
        f"Built {REF} in 3.1 s; validation loss 1.1 before, 0.586 after"
    )
    assert training_message(stage_result(counts={})) == f"Built {REF} in 3.1 s"


def test_the_table_of_stages_is_markdown_with_short_references() -> None:
    table = stages_markdown({"ingest": stage_result(), "again": stage_result(reused=True)})
    assert table.splitlines()[2:] == [
        "| ingest | `corpus/docs/0123456789ab` | built | 3.1 s "
        "| documents 79, chunks 1,012, dropped: too large 2 |",
        "| again | `corpus/docs/0123456789ab` | reused | 3.1 s "
        "| documents 79, chunks 1,012, dropped: too large 2 |",
    ]


@pytest.mark.parametrize(
    ("is_promoted", "start"), [(True, "The champion is now model/docs/"), (False, "Not promoted: ")]
)
def test_a_decision_gives_its_reasons_also_without_figures(is_promoted: bool, start: str) -> None:
    decision = PromotionResult(
        is_promoted=is_promoted,
        reasons=("first", "second"),
        metric="token_f1",
        difference=None,
        low=None,
        high=None,
        model=ArtifactRef(kind="model", name="docs", fingerprint="0" * 32),
        against="champion",
    )
    assert promotion_message(decision).startswith(start)
    assert promotion_message(decision).endswith("first; second")


def answer(**changes: Any) -> Answer:
    quotes = [("it is\nso | so", "verbatim"), ("never said", "absent")]
    values: dict[str, Any] = {
        "question": "Is it so?",
        "text": "<ANSWER>: Yes.",
        "final_answer": "Yes.",
        "is_refusal": False,
        "quotes": tuple(
            AnsweredQuote(
                text=text,
                status=status,
                passage_number=1,
                chunk_id="c" if status == "verbatim" else None,
                title="Page" if status == "verbatim" else None,
                source_uri="file:page.md" if status == "verbatim" else None,
            )
            for text, status in quotes
        ),
        "passages": (),
        "model": "model/docs/0",
        "index": "index/docs/0",
    }
    return Answer(**(values | changes))


def test_an_answer_shows_each_quote_its_source_and_whether_it_is_verbatim() -> None:
    assert answer_message(answer()) == "Yes. (1 of 2 quotes verbatim)"
    lines = answer_markdown(answer()).splitlines()
    assert lines[0] == "> Is it so?"
    assert "| it is so \\| so | verbatim | Page | file:page.md |" in lines
    assert "| never said | absent | - | - |" in lines
    assert lines[-1] == "Model: `model/docs/0`"


def test_a_refusal_says_so_and_an_unmarked_answer_is_shown_whole() -> None:
    markdown = answer_markdown(answer(is_refusal=True, final_answer=None, quotes=()))
    assert "<ANSWER>: Yes." in markdown
    assert "declined" in markdown
    assert answer_message(answer(final_answer="word " * 100)).startswith("word word")
    assert len(answer_message(answer(final_answer="word " * 100))) < 240
