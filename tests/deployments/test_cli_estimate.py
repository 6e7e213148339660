"""`raftline estimate`: what is asked for, and how the answer reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.config import IndexConfig, IngestConfig
from pipeline_lib.raft import estimate as module
from pipeline_lib.raft.estimate import FunnelStep, SampleRecord, StepEstimate, SynthesisEstimate
from pipeline_lib.raft.extrapolation import Quantity
from pipeline_lib.stage import Workspace, run_stage

runner = CliRunner()


def about(value: float) -> Quantity:
    return Quantity(value=value, low=value * 0.8, high=value * 1.5)


TOLD = SynthesisEstimate(
    name="docs",
    teacher="endpoint:big-model",
    is_made=False,
    num_rows_carried=70,
    num_rows_missing=1_000,
    rows=about(1_000),
    topics=about(2_500),
    requests=about(6_000),
    prompt_tokens=about(4_000_000),
    completion_tokens=about(900_000),
    cost=about(12.5),
    currency="EUR",
    hours=about(1.5),
    budget_share=0.4,
    steps=(
        StepEstimate(
            step="asking",
            requests=2_500,
            prompt_tokens=1_500_000,
            cached_tokens=0,
            completion_tokens=300_000,
            scored_targets=0,
            cost=4.5,
        ),
    ),
    sample=SampleRecord(
        num_topics=16,
        num_rows=9,
        num_requests=40,
        num_reused=4,
        num_tokens=52_000,
        cost=0.0812,
        new_cost=0.07,
        steps=(FunnelStep(name="question", kept=20, dropped={"not_a_question": 3}),),
    ),
    notes=("The sample was too small to calibrate the judge.",),
)


@pytest.fixture
def asked(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A corpus and its index that exist; the estimate is `TOLD`, or what the test puts there."""
    calls: dict[str, Any] = {"told": TOLD}

    def publish(kind: Any, config: Any, inputs: Any) -> Any:
        return run_stage(
            workspace,
            kind=kind,
            name="docs",
            stage="made by hand",
            stage_version=1,
            config=config,
            inputs=inputs,
            build=lambda draft: (draft.directory / "file").write_text("x"),
        ).ref

    calls["corpus"] = publish("corpus", IngestConfig(), {})
    calls["index"] = publish("index", IndexConfig(), {"corpus": calls["corpus"]})

    def estimate(ws: Any, name: str, config: Any, corpus: Any, index: Any, topics: int) -> Any:
        calls["arguments"] = name, config, corpus, index, topics
        return calls["told"]

    monkeypatch.setattr(module, "estimate", estimate)
    return calls


def run(*arguments: str) -> str:
    result = runner.invoke(app, ["estimate", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_configuration_is_a_pipelines(asked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "docs.yaml"
    file.write_text("name: docs\nsynthesize: {num_questions: 321}\n")
    run("--config", str(file), "--topics", "50")
    name, config, corpus, index, topics = asked["arguments"]
    assert (name, topics, config.num_questions) == ("docs", 50, 321)
    assert (corpus, index) == (asked["corpus"], asked["index"])


def test_it_says_what_is_expected_and_how_sure_that_is(asked: dict[str, Any]) -> None:
    output = " ".join(run("--name", "docs").split())
    assert "docs by endpoint:big-model" in output
    assert "Tried 16 topics: 9 rows, 40 requests, 52,000 tokens for 0.0812 EUR." in output
    assert "4 answers were there already" in output
    assert "question 20 kept; dropped 3 not_a_question" in output
    assert "rows, of 1,000 1,000 800 to 1,500" in output
    assert "requests 6,000 4,800 to 9,000" in output
    assert "cost 12.50 EUR 10.00 to 18.75" in output
    assert "time of the teacher 1 h 30 min 1 h 12 min to 2 h 15 min" in output
    assert "asking 2,500 1,500,000 300,000" in output
    assert "70 rows more are taken over" in output
    assert "The budget reaches for about 40% of this" in output
    assert "too small to calibrate the judge" in output
    assert "scored answers" not in output.split("by step")[0]


def test_json_is_the_whole_estimate(asked: dict[str, Any]) -> None:
    assert SynthesisEstimate.model_validate(json.loads(run("--name", "docs", "--json"))) == TOLD


def test_nothing_to_do_is_said(asked: dict[str, Any]) -> None:
    asked["told"] = SynthesisEstimate(
        name="docs", teacher="t", is_made=True, num_rows_carried=80, currency="USD"
    )
    output = run("--name", "docs")
    assert "exists already" in output
    assert "All 80 rows can be taken over" in output


def test_a_free_teacher_has_no_price(asked: dict[str, Any]) -> None:
    sample = TOLD.sample
    assert sample is not None
    asked["told"] = TOLD.model_copy(
        update={
            "cost": about(0),
            "hours": None,
            "sample": sample.model_copy(update={"cost": 0.0, "new_cost": 0.0}),
        }
    )
    output = " ".join(run("--name", "docs").split())
    assert "EUR" not in output
    assert "time of the teacher unknown" in output


def test_without_an_index_the_error_says_so(workspace: Workspace) -> None:
    result = runner.invoke(app, ["estimate", "--name", "nothing-here"])
    assert result.exit_code == 1
    assert "no index 'nothing-here'" in result.stderr


def test_another_artifact_than_an_index_is_refused(asked: dict[str, Any]) -> None:
    result = runner.invoke(app, ["estimate", "--index", str(asked["corpus"])])
    assert result.exit_code == 1
    assert "is no index" in result.stderr
