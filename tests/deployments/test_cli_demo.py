"""`raftline demo`: what it starts from, and what it shows in the end."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from deployments.cli import demo
from deployments.cli.main import app
from pipeline_lib.artifacts.manifest import ArtifactKind, ArtifactRef
from pipeline_lib.config import PipelineConfig
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace
from tests.artifacts.made_artifacts import publish

runner = CliRunner()


def _estimate(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "num": 20}


METRICS: dict[str, Any] = {
    "evaluation_version": 1,
    "split": "test",
    "num_questions": 20,
    "num_oracle_in_context": 18,
    "context_size": 3,
    "confidence": 0.95,
    "arms": {"base": {"token_f1": _estimate(0.25)}, "candidate": {"token_f1": _estimate(0.5)}},
    "retrieval": {
        "recall@5": _estimate(0.9),
        "mrr@1": _estimate(0.3),
        "mrr@5": _estimate(0.7),
    },
    "comparisons": [
        {
            "metric": "token_f1",
            "arm": "candidate",
            "against": "base",
            "difference": 0.25,
            "low": 0.125,
            "high": 0.375,
            "p_value": 0.001,
            "num": 20,
        }
    ],
    "answers": {},
    "signatures": {},
}


def _fill(draft: ArtifactDraft) -> None:
    (draft.directory / "metrics.json").write_text(json.dumps(METRICS))
    (draft.directory / "report.html").write_text("<!doctype html><title>Report</title>")
    draft.counts["num_questions"] = 20


def _result(kind: ArtifactKind, *, reused: bool) -> StageResult:
    ref = ArtifactRef(kind=kind, name="demo", fingerprint="ab" * 16)
    return StageResult(
        ref=ref,
        reused=reused,
        counts={"num_documents": 79},
        dropped={"too short": 3},
        metrics={},
        uri=f"s3://raftline/{ref}",
        seconds=61.0,
    )


@pytest.fixture
def ws(settings) -> Workspace:
    return Workspace.open(settings=settings)


@pytest.fixture
def evaluation(ws: Workspace) -> StageResult:
    """An evaluation artifact in the store."""
    return publish(ws, "evaluation", _fill)


def _summary(evaluation: StageResult, *, reused: bool) -> Any:
    from flows.summary import PipelineSummary
    from pipeline_lib.evaluation.promotion import PromotionResult

    model = _result("model", reused=reused)
    promotion = PromotionResult(
        is_promoted=True,
        reasons=("better than the base model",),
        metric="token_f1",
        difference=0.25,
        low=0.125,
        high=0.375,
        model=model.ref,
        against="base",
    )
    return PipelineSummary(
        name="demo",
        corpus=_result("corpus", reused=reused),
        index=_result("index", reused=reused),
        dataset=_result("dataset", reused=reused),
        model=model,
        evaluation=evaluation.model_copy(update={"reused": reused}),
        promotion=promotion,
    )


def _console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=160, highlight=False), out


def test_a_wrong_configuration_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.cli.stack.start_stack", lambda: pytest.fail("started"))
    (tmp_path / "run.yaml").write_text("finetune: {batch: {global_batch_size: 7}}")
    result = runner.invoke(app, ["demo", "--config", str(tmp_path / "run.yaml")])
    assert result.exit_code == 1
    assert "global_batch_size (7) must be a multiple of" in result.stderr
    assert result.stdout == ""


def test_a_wrong_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.cli.stack.start_stack", lambda: pytest.fail("started"))
    result = runner.invoke(app, ["demo", "--name", "My Docs"])
    assert result.exit_code == 1
    assert "demo: name: String should match pattern" in result.stderr


def test_only_the_bundled_models_that_a_run_needs_are_fetched() -> None:
    default = PipelineConfig()
    assert demo._bundled_models(default) == [
        "bundled:all-MiniLM-L6-v2",
        "bundled:SmolLM2-135M-Instruct",
    ]
    own = PipelineConfig.model_validate(
        {
            "ingest": {"embedding_model": "/models/e5"},
            "index": {"embedding_model": "/models/e5"},
            "finetune": {"base_model": "org/model"},
            "synthesize": {"teacher": {"kind": "endpoint", "model": "bundled:looks-like-it"}},
        }
    )
    assert demo._bundled_models(own) == []


def test_the_report_is_copied_to_where_people_find_it(
    ws: Workspace, evaluation: StageResult, tmp_path: Path
) -> None:
    summary = SimpleNamespace(evaluation=evaluation)
    report = demo._copy_report(ws.artifacts, summary, tmp_path / "reports")
    assert report == tmp_path / "reports" / f"demo-{evaluation.ref.fingerprint[:8]}.html"
    assert report.read_text() == "<!doctype html><title>Report</title>"


def test_the_end_shows_what_was_built_and_where_it_lies(evaluation: StageResult) -> None:
    console, out = _console()
    demo._print_stages(console, _summary(evaluation, reused=False), 492)
    text = out.getvalue()
    assert "Done in 8 min 12 s." in text
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["synthesize"]]
    expected = "synthesize built 1 min 01 s documents 79 3: too short 3"
    assert " ".join(line.split()) == expected
    for kind in ("corpus", "index", "dataset", "model"):
        assert f"s3://raftline/{kind}/demo/{'ab' * 16}" in text
    assert evaluation.uri in text


def test_a_run_that_reused_everything_says_so(evaluation: StageResult) -> None:
    console, out = _console()
    demo._print_stages(console, _summary(evaluation, reused=True), 12)
    assert "Nothing has changed: every artifact was reused (12 s)." in out.getvalue()


def test_the_commonest_reasons_for_drops_are_named() -> None:
    dropped = {"a": 1, "num_b": 20, "c_d": 300, "e": 4}
    assert demo._drops(dropped) == "325: c d 300, b 20, e 4, …"
    assert demo._drops({}) == "-"


def test_base_and_fine_tuned_are_compared_with_intervals(
    ws: Workspace, evaluation: StageResult
) -> None:
    console, out = _console()
    demo._print_metrics(console, ws.artifacts, _summary(evaluation, reused=False))
    text = " ".join(out.getvalue().split())
    assert "0.250 [0.200, 0.300] 0.500 [0.450, 0.550] +0.250 [+0.125, +0.375]" in text
    assert "Metric @5 @1 recall 0.900 mrr 0.700 0.300" in text
    assert "on 20 held-out questions, with 95% intervals" in text
    assert f"model/demo/{'ab' * 16}" in text


def test_two_commands_to_try_next_can_be_typed_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [".venv/bin/raftline", "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    console, out = _console()
    demo._print_next_commands(
        console, PipelineConfig(name="docs"), Path("my.yaml"), has_champion=True
    )
    assert out.getvalue().splitlines()[2:] == [
        '  .venv/bin/raftline ask --name docs "What does the with statement do?"',
        "  .venv/bin/raftline demo --config my.yaml --name docs   (again: everything is reused)",
    ]
    (tmp_path / "Makefile").touch()
    console, out = _console()
    demo._print_next_commands(console, PipelineConfig(), None, has_champion=False)
    lines = out.getvalue().splitlines()
    assert "ask --model latest" in lines[2], "there is no champion to ask yet"
    assert lines[3].split("   ")[0] == "  make demo"


def test_a_command_on_the_path_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "raftline"
    command.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [str(command), "demo"])
    assert demo.own_command() == "raftline"
