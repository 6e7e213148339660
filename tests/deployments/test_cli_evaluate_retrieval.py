"""`raftline evaluate-retrieval`: systems side by side, what differs, and what to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import RetrievalEvaluationConfig, SweepConfig
from pipeline_lib.evaluation.retrieval import stage
from pipeline_lib.evaluation.retrieval.records import (
    RetrievalSummary,
    SettingResult,
    SweepResult,
    SystemComparison,
    SystemResult,
)
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.stage import Workspace, run_stage

runner = CliRunner()
COMMAND = "evaluate-retrieval"


def _estimate(mean: float) -> Estimate:
    return Estimate(mean=mean, low=mean - 0.05, high=mean + 0.05, num=40)


def _compared(system: str, against: str, difference: float) -> SystemComparison:
    return SystemComparison(
        metric="ndcg@10",
        system=system,
        against=against,
        difference=difference,
        low=difference - 0.02,
        high=difference + 0.02,
        p_value=0.004,
        adjusted_p_value=0.02,
    )


SWEEP = SweepResult(
    metric="ndcg@10",
    level="documents",
    num_dev=20,
    num_held_out=20,
    settings=(
        SettingResult(
            name="rrf, k 1, 50 candidates",
            changes={"fusion": "rrf", "rrf_k": 1},
            estimate=_estimate(0.85),
            comparison=_compared("rrf, k 1, 50 candidates", "in use", 0.05),
            context_tokens=400,
        ),
        SettingResult(
            name="in use", changes={}, estimate=_estimate(0.8), comparison=None, context_tokens=400
        ),
    ),
    chosen="rrf, k 1, 50 candidates",
    held_out=_compared("rrf, k 1, 50 candidates", "in use", 0.04),
    held_out_estimates={"in use": _estimate(0.8)},
    decision="change",
    recommendation="Change to rrf, k 1, 50 candidates: it is better.",
    recommended={"fusion": "rrf", "rrf_k": 1},
)
SUMMARY = RetrievalSummary(
    evaluation_version=1,
    source="my [questions]",
    caveat="These [questions] flatter hybrid search.",
    level="documents",
    num_queries=40,
    num_relevant=44,
    num_chunks=1200,
    num_unmatched=2,
    depth=50,
    metric="ndcg@10",
    cutoffs=(10,),
    confidence=0.95,
    num_bootstrap_samples=10_000,
    systems=tuple(
        SystemResult(
            name=name,
            description=description,
            estimates={"ndcg@10": _estimate(mean)},
            num_without_results=0,
        )
        for name, description, mean in (
            ("configured", "dbsf, 50 candidates", 0.8),
            ("dense", "dense", 0.7),
            ("sparse", "sparse", 0.75),
        )
    ),
    comparisons=(_compared("configured", "dense", 0.1), _compared("configured", "sparse", 0.05)),
    sweep=SWEEP,
    dropped={},
)


@pytest.fixture
def asked(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An index and a dataset that exist, and a stage that only publishes a summary."""
    calls: dict[str, Any] = {}

    def publish(kind: Any, name: str, files: dict[str, str]) -> Any:
        def build(draft: Any) -> None:
            for file, text in files.items():
                (draft.directory / file).write_text(text)

        return run_stage(
            workspace,
            kind=kind,
            name=name,
            stage="made by hand",
            stage_version=1,
            config=SweepConfig(),
            inputs={},
            build=build,
        )

    calls["index_ref"] = publish("index", "docs", {}).ref
    calls["dataset_ref"] = publish("dataset", "docs", {}).ref

    def evaluate(
        ws: Workspace,
        name: str,
        config: RetrievalEvaluationConfig,
        *,
        index: ArtifactRef,
        dataset: ArtifactRef | None,
    ) -> Any:
        calls.update(name=name, config=config, index=index, dataset=dataset)
        files = {"metrics.json": SUMMARY.model_dump_json(), "report.html": "<h1>Report</h1>"}
        return publish("evaluation", f"{name}-retrieval", files)

    monkeypatch.setattr(stage, "evaluate_retrieval", evaluate)
    return calls


def test_help_shows_an_example() -> None:
    result = runner.invoke(app, [COMMAND, "--help"])
    assert f"Example: raftline {COMMAND}" in result.stdout


def test_systems_differences_and_recommendation_are_printed(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    result = runner.invoke(app, [COMMAND, str(tmp_path), "--name", "docs", "--sweep"])
    assert result.exit_code == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0] == ("40 queries from my [questions], 44 relevant documents, 1,200 chunks")
    assert lines[1] == "These [questions] flatter hybrid search."
    [row] = [line for line in lines if line.startswith("ndcg@10")]
    assert [part for part in row.split() if part[0].isdigit()][::3] == ["0.800", "0.700", "0.750"]
    assert "2 judged items are not in the corpus and count as not found." in result.stdout
    assert (
        "dense   ndcg@10 +0.100 (+0.080 to +0.120), p 0.0200 (Holm, 2 comparisons)" in result.stdout
    )
    assert "Change to rrf, k 1, 50 candidates: it is better." in lines
    assert "Set fusion: rrf, rrf_k: 1" in lines
    [report] = [line for line in lines if line.startswith("Report")]
    assert Path(report.split(maxsplit=1)[1]).read_text() == "<h1>Report</h1>"


def test_files_need_no_dataset_and_options_reach_the_stage(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    arguments = [str(tmp_path), "--name", "docs", "--chunk-size", "64", "--chunk-size", "256"]
    assert runner.invoke(app, [COMMAND, *arguments]).exit_code == 0
    assert asked["dataset"] is None
    assert asked["index"] == asked["index_ref"]
    assert asked["config"].judgements == str(tmp_path)
    assert asked["config"].sweep == SweepConfig(chunk_sizes=(64, 256))


def test_without_files_a_datasets_questions_are_asked(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "evaluation.yaml"
    file.write_text("split: validation\ncutoffs: [1, 5]\n")
    short = asked["index_ref"].fingerprint[:12]
    arguments = ["--name", "docs", "--config", str(file), "--index", f"index/docs/{short}"]
    assert runner.invoke(app, [COMMAND, *arguments]).exit_code == 0
    assert asked["dataset"] == asked["dataset_ref"]
    assert asked["config"].split == "validation"
    assert asked["config"].cutoffs == (1, 5)
    assert asked["config"].sweep is None


def test_json_is_the_metrics_file(asked: dict[str, Any], tmp_path: Path) -> None:
    result = runner.invoke(app, [COMMAND, str(tmp_path), "--name", "docs", "--json"])
    assert RetrievalSummary.model_validate(json.loads(result.stdout)) == SUMMARY


def test_a_wrong_configuration_and_a_missing_index_are_explained(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "evaluation.yaml"
    file.write_text("cutofs: [1]\n")
    result = runner.invoke(app, [COMMAND, "--config", str(file)])
    assert result.exit_code == 1
    assert "there is no field 'cutofs'" in result.stderr
    result = runner.invoke(app, [COMMAND, str(tmp_path), "--name", "nobody"])
    assert result.exit_code == 1
    assert "There is no index 'nobody' with the alias 'latest'" in result.stderr


def test_the_tables_of_the_ui_hold_every_metric_and_setting() -> None:
    from tasks.evaluate_retrieval import metrics_table, sweep_table

    assert metrics_table(SUMMARY) == [
        {
            "Metric": "ndcg@10",
            "configured": "0.800 [0.750, 0.850]",
            "dense": "0.700 [0.650, 0.750]",
            "sparse": "0.750 [0.700, 0.800]",
        }
    ]
    assert [row["p (Holm)"] for row in sweep_table(SUMMARY)] == ["0.020", ""]
    without = SUMMARY.model_copy(update={"sweep": None})
    assert sweep_table(without) == []
