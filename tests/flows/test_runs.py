"""Whole flow runs in this process, on a real Prefect server and real S3, with fake stages."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from prefect.exceptions import ParameterTypeError, SignatureMismatchError
from prefect.states import State

from flows.evaluate import evaluate
from flows.finetune import finetune
from flows.index import index
from flows.ingest import ingest
from flows.pipeline import pipeline
from flows.runtime import SKIPPED, use_progress
from flows.summary import PipelineSummary
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig, PipelineConfig, PromoteConfig
from pipeline_lib.errors import (
    ArtifactNotFoundError,
    ConfigError,
    InputError,
    StoreUnavailableError,
)
from pipeline_lib.stage import StageResult, Workspace, run_stage
from tests.prefect_client import prefect_client

pytestmark = pytest.mark.usefixtures("prefect_api")


class Api:
    """The server as any HTTP client sees it."""

    def __init__(self, url: str) -> None:
        self._client = prefect_client(url)

    def run(self, state: State[Any]) -> dict[str, Any]:
        return self._client.get(f"/flow_runs/{self.run_id(state)}").json()

    def artifacts(self, state: State[Any]) -> dict[str, dict[str, Any]]:
        """Key (or type, where there is no key) to artifact of a run."""
        chosen = {"artifacts": {"flow_run_id": {"any_": [self.run_id(state)]}}}
        found = self._client.post("/artifacts/filter", json=chosen).json()
        return {artifact["key"] or artifact["type"]: artifact for artifact in found}

    def task_runs(self, state: State[Any]) -> list[dict[str, Any]]:
        """As they ended: what a finished flow run tells of its tasks arrives a little later."""
        chosen = {"flow_runs": {"id": {"any_": [self.run_id(state)]}}}
        deadline = time.monotonic() + 60
        while True:
            found = self._client.post("/task_runs/filter", json=chosen).json()
            if all(run["state_type"] not in ("PENDING", "RUNNING") for run in found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

    def run_id(self, state: State[Any]) -> str:
        return str(state.state_details.flow_run_id)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def api(prefect_api: str) -> Any:
    client = Api(prefect_api)
    yield client
    client.close()


def test_a_pipeline_run_leaves_everything_in_the_ui_and_the_next_one_reuses_it_all(
    api: Api, fake_stages: Any, workspace: Workspace
) -> None:
    config = PipelineConfig(name="docs")
    first = pipeline(config, return_state=True)
    summary = first.result()

    assert isinstance(summary, PipelineSummary)
    assert fake_stages.stages == ["ingest", "index", "synthesize", "finetune", "evaluate"]
    assert workspace.artifacts.resolve("model/docs@champion") == summary.model.ref
    assert not summary.is_unchanged
    run = api.run(first)
    assert run["name"] == "pipeline docs"
    assert run["state"]["message"] == summary.message
    [reason] = summary.promotion.reasons
    assert summary.message == f"The champion is now {summary.model.ref}: {reason}"

    shown = api.artifacts(first)
    assert shown["docs-funnel"]["type"] == "table"
    assert [row["Kept"] for row in json.loads(shown["docs-funnel"]["data"])] == [12, 9]
    [reject] = json.loads(shown["docs-rejects"]["data"])
    assert (reject["Reason"], reject["Rejected"]) == ("not retrieved", 3)
    [line] = json.loads(shown["docs-ledger"]["data"])
    assert (line["Completions"], line["Cost"]) == ("1,200 (20)", "0.15 (0.0025)")
    assert shown["docs-card"]["data"] == "# docs\n\n## Mixes"
    metrics = json.loads(shown["docs-metrics"]["data"])
    assert metrics[0]["Fine-tuned"] == "0.450 [0.400, 0.500]"
    assert metrics[0]["Difference"] == "+0.150 [+0.100, +0.200]"
    assert shown["docs-corpus"]["type"] == "table"
    [measured] = json.loads(shown["docs-training"]["data"])
    assert measured == {"Measured": "validation loss", "Before": "1.5", "After": "0.25"}
    assert shown["docs-model-card"]["data"] == "# A model"
    assert shown["docs-summary"]["type"] == "markdown"
    assert "| built |" in shown["docs-summary"]["data"]
    assert shown["progress"]["data"] == 100
    # The link opens without credentials, in any browser.
    link = shown["docs-report"]["data"].partition("](")[2].rstrip(")")
    assert httpx.get(link).text == "<h1>Report</h1>"
    # For programs: the same that the flow returned, from any machine.
    assert PipelineSummary.model_validate_json(shown["result"]["data"]) == summary
    record = run["state"]["data"]
    assert record["serializer"]["type"] == "json"

    second = pipeline(config, return_state=True)
    again = second.result()
    assert again.is_unchanged
    assert [result.ref for result in again.stages.values()] == [
        result.ref for result in summary.stages.values()
    ]
    assert api.run(second)["state"]["message"] == (
        "Nothing changed, every artifact was reused. "
        f"Not promoted: {summary.model.ref} is already champion"
    )
    markdown = api.artifacts(second)["docs-summary"]["data"]
    assert "every artifact was reused" in markdown
    assert "| built |" not in markdown
    assert "docs-funnel" in api.artifacts(second)  # a reused stage is shown like a built one

    changed = {"name": "docs", "finetune": {"seed": 7}}
    third = pipeline(PipelineConfig.model_validate(changed))
    assert third.dataset.reused
    assert not third.model.reused
    # What is to become champion is compared with the champion.
    assert fake_stages.calls[-1][1]["champion"] == summary.model.ref
    # Also when it is champion, its evaluation is not paid for a second time.
    workspace.artifacts.set_alias("champion", third.model.ref)
    assert pipeline(PipelineConfig.model_validate(changed)).is_unchanged


def test_an_evaluation_before_the_first_training_is_skipped_and_says_what_to_run(
    api: Api, fake_stages: Any, workspace: Workspace
) -> None:
    state = evaluate(name="docs", return_state=True)
    assert state.result() is None
    run = api.run(state)
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", SKIPPED)
    assert run["state"]["message"] == (
        "Nothing to evaluate yet: there is no model/docs@latest. "
        "The flow 'finetune' makes it, or 'pipeline' makes everything."
    )
    assert fake_stages.calls == []
    # Its tasks have not failed either: nothing red in the UI.
    assert {task["state_type"] for task in api.task_runs(state)} == {"COMPLETED"}


def test_an_evaluation_of_something_named_that_does_not_exist_fails(
    fake_stages: Any, workspace: Workspace
) -> None:
    with pytest.raises(ArtifactNotFoundError, match="model: There is no model 'docs' with the"):
        evaluate(name="docs", model="chmpion")


def test_a_flow_takes_references_to_another_pipelines_artifacts(
    fake_stages: Any, workspace: Workspace
) -> None:
    corpus = ingest(name="docs")
    result = index(name="other", corpus="corpus/docs@latest")
    assert fake_stages.calls[-1] == ("index", {"input0": corpus.ref})
    # What a flow returns is what its stage returned.
    assert isinstance(result, StageResult)
    assert result.ref == workspace.artifacts.resolve("index/other@latest")
    with pytest.raises(ConfigError, match="'model/docs@latest' is no reference to a corpus"):
        index(name="other", corpus="model/docs@latest")


def test_an_evaluation_compares_with_the_champion_unless_told_otherwise(
    fake_stages: Any, workspace: Workspace
) -> None:
    for stage in ("model", "dataset", "index"):
        _publish(workspace, stage)
    champion = _publish(workspace, "model", seed=1)
    workspace.artifacts.set_alias("champion", champion)
    latest = _publish(workspace, "model", seed=2)
    evaluate(name="docs")
    assert fake_stages.calls[-1][1]["champion"] == champion
    evaluate(name="docs", baseline="none")
    assert "champion" not in fake_stages.calls[-1][1]
    evaluate(name="docs", model=str(champion), baseline="model/docs@latest")
    assert fake_stages.calls[-1][1]["champion"] == latest
    evaluate(name="docs", model="champion")  # never with itself, but as the last time
    assert fake_stages.calls[-1][1]["champion"] == latest


def test_a_training_continues_from_the_champion_if_there_is_one_and_from_nothing_misspelt(
    fake_stages: Any, workspace: Workspace
) -> None:
    _publish(workspace, "dataset")
    going_on = FinetuneConfig(continue_from="champion")
    finetune(name="docs", config=going_on)
    assert fake_stages.calls[-1][1]["input1"] is None
    champion = _publish(workspace, "model", seed=1)
    workspace.artifacts.set_alias("champion", champion)
    finetune(name="docs", config=going_on)
    assert fake_stages.calls[-1][1]["input1"] == champion
    with pytest.raises(ArtifactNotFoundError, match="no model 'docs' with the alias 'champoin'"):
        finetune(name="docs", config=FinetuneConfig(continue_from="champoin"))


def test_a_transient_error_is_tried_again_and_bad_input_is_not(
    api: Api, fake_stages: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.ingest.ingest.retry_delay_seconds", [0.1, 0.1, 0.1])
    down = [StoreUnavailableError("The store answered 503") for _ in range(2)]
    fake_stages.failures = {"ingest": down, "index": [InputError("chunk 7 is broken", hint="Look")]}
    state = pipeline(PipelineConfig(name="docs"), return_state=True)
    assert fake_stages.stages == ["ingest", "ingest", "ingest", "index"]
    assert api.run(state)["state"]["message"] == (
        "Flow run encountered an exception: InputError: chunk 7 is broken\n  hint: Look"
    )


def test_a_listener_follows_the_stages_of_a_flow(fake_stages: Any, workspace: Workspace) -> None:
    heard: list[Any] = []

    class Listener:
        def start(self, description: str, total: int | None, unit: str = "items") -> None:
            heard.append((description, total, unit))

        def advance(self, count: int = 1) -> None:
            heard.append(count)

        def note(self, text: str) -> None: ...

        def finish(self) -> None: ...

    with use_progress(Listener()):
        ingest(name="docs")
    assert heard == [("Doing ingest", 2, "things"), 2]


def test_a_wrong_parameter_is_refused_by_name_before_any_work(fake_stages: Any) -> None:
    with pytest.raises(ParameterTypeError, match=r"config\.finetune\.lerning_rate: Extra inputs"):
        pipeline(config={"finetune": {"lerning_rate": 1}})
    with pytest.raises(ParameterTypeError, match=r"global_batch_size \(4\) must be a multiple"):
        pipeline(config={"finetune": {"batch": {"micro_batch_size": 3}}})
    with pytest.raises(ParameterTypeError, match="name: String should match pattern"):
        index(name="Not A Name")
    with pytest.raises((SignatureMismatchError, TypeError), match="nme"):
        index(nme="docs")
    assert fake_stages.calls == []


def _publish(workspace: Workspace, kind: Any, seed: int = 0) -> ArtifactRef:
    return run_stage(
        workspace,
        kind=kind,
        name="docs",
        stage="made by hand",
        stage_version=1,
        config=PromoteConfig(),
        inputs={},
        build=lambda draft: None,
        seed=seed,
    ).ref
