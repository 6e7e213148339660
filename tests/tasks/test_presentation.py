"""The tables that a run leaves in the UI."""

from __future__ import annotations

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.evaluation.records import Comparison, EvaluationSummary
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.stage import StageResult
from tasks.presentation import (
    counts_table,
    funnel_table,
    metrics_table,
    show,
    training_table,
    unwrapped,
)


def test_counts_come_before_drops_in_words() -> None:
    result = StageResult(
        ref=ArtifactRef(kind="corpus", name="docs", fingerprint="0" * 32),
        reused=False,
        counts={"num_documents": 79, "num_chunk_tokens": 1012},
        dropped={"too_large": 2},
        metrics={},
        uri="s3://bucket/corpus/docs/0",
        seconds=1.0,
    )
    assert counts_table(result) == [
        {"What": "documents", "Number": 79},
        {"What": "chunk tokens", "Number": 1012},
        {"What": "dropped: too large", "Number": 2},
    ]


def test_a_funnel_step_shows_what_it_kept_and_why_it_dropped() -> None:
    steps = [
        {"name": "generated", "kept": 120, "dropped": {}},
        {"name": "round_trip", "kept": 60, "dropped": {"not_retrieved": 35, "empty": 5}},
        {"name": "quotes", "kept": 0, "dropped": {}},
    ]
    assert funnel_table({"steps": steps}) == [
        _step("generated", 120, 0, "100%", ""),
        _step("round trip", 60, 40, "60%", "not retrieved 35, empty 5"),
        _step("quotes", 0, 0, "", ""),
    ]


def test_paragraphs_become_lines_and_all_else_stays() -> None:
    kept = "# Title\n\n| a |\n|---|\n| b |\n\n- one\n- two\n\n```text\nx\ny\n```"
    assert unwrapped(f"{kept}\n\nA paragraph\nin two lines.\n\nAnother.") == (
        f"{kept}\n\nA paragraph in two lines.\n\nAnother."
    )


def test_a_training_shows_each_measure_before_and_after() -> None:
    metrics = {
        "final_train_loss": 0.71170,
        "initial_validation_loss": 1.5,
        "initial_validation_quote_rate": 0.0,
        "final_validation_loss": 0.25,
        "final_validation_quote_rate": 0.75,
    }
    assert training_table(metrics) == [
        {"Measured": "train loss", "Before": "", "After": "0.7117"},
        {"Measured": "validation loss", "Before": "1.5", "After": "0.25"},
        {"Measured": "validation quote rate", "Before": "0", "After": "0.75"},
    ]


def test_metrics_show_every_arm_and_the_difference_with_intervals() -> None:
    summary = _summary(with_champion=False)
    assert metrics_table(summary) == [
        {
            "Metric": "Token F1",
            "Base": "0.300 [0.250, 0.350]",
            "Fine-tuned": "0.450 [0.400, 0.500]",
            "Difference": "+0.150 [+0.050, +0.220]",
        },
        {"Metric": "BLEU", "Base": "", "Fine-tuned": "14.000 [13.950, 14.050]", "Difference": ""},
        {
            "Metric": "recall@5",
            "Base": "0.800 [0.750, 0.850]",
            "Fine-tuned": "0.800 [0.750, 0.850]",
            "Difference": "",
        },
    ]


def test_every_row_of_the_metrics_has_the_same_columns_also_with_a_champion() -> None:
    rows = metrics_table(_summary(with_champion=True))
    columns = ["Metric", "Base", "Fine-tuned", "Champion", "Difference", "To champion"]
    assert [list(row) for row in rows] == [columns] * 3


def test_outside_a_run_nothing_is_created() -> None:
    show(lambda **_: 1 / 0, key="never")


def _step(name: str, kept: int, dropped: int, share: str, why: str) -> dict[str, str | int]:
    return {
        "Step": name,
        "Kept": kept,
        "Dropped": dropped,
        "Share kept": share,
        "Why dropped": why,
    }


def _around(mean: float) -> Estimate:
    return Estimate(mean=mean, low=mean - 0.05, high=mean + 0.05, num=20)


def _summary(*, with_champion: bool) -> EvaluationSummary:
    arms = {"base": {"token_f1": _around(0.3)}, "candidate": {"token_f1": _around(0.45)}}
    arms["candidate"]["bleu"] = _around(14.0)
    if with_champion:
        arms["champion"] = {"token_f1": _around(0.4)}
    comparison = Comparison(
        metric="token_f1",
        arm="candidate",
        against="base",
        difference=0.15,
        low=0.05,
        high=0.22,
        p_value=0.001,
        num=20,
    )
    return EvaluationSummary(
        evaluation_version=1,
        split="test",
        num_questions=20,
        num_oracle_in_context=18,
        context_size=3,
        confidence=0.95,
        arms=arms,
        retrieval={"recall@5": _around(0.8)},
        comparisons=(comparison,),
        answers={},
        signatures={},
    )
