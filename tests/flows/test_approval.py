"""The pause before training, on a real Prefect server, resumed as the UI and the API resume it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import httpx
import pytest
from prefect.exceptions import CancelledRun
from prefect.states import State

from flows.pipeline import pipeline
from pipeline_lib.config import ApprovalConfig, PipelineConfig
from pipeline_lib.raft.review.approvals import last_approval
from pipeline_lib.stage import Workspace
from tests.prefect_client import prefect_client

pytestmark = pytest.mark.usefixtures("prefect_api", "workspace")
CONFIG = PipelineConfig(name="docs", approval=ApprovalConfig(num_rows=3))
Start = Callable[[PipelineConfig], Any]


class Api:
    """The server as any HTTP client sees it."""

    def __init__(self, url: str) -> None:
        self.client = prefect_client(url)

    def paused_run(self) -> dict[str, Any]:
        """The run of this test that has come to its pause."""
        deadline = time.monotonic() + 60
        while not (found := self.paused_runs()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        [run] = found
        # The form is saved just after the run is paused.
        while self.form(run["id"], "schema").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return run

    def form(self, run_id: str, name: str) -> httpx.Response:
        keyset = self.client.get(f"/flow_runs/{run_id}").json()["state"]["state_details"]
        return self.client.get(f"/flow_runs/{run_id}/input/{keyset['run_input_keyset'][name]}")

    def resume(self, run_id: str, **answers: Any) -> dict[str, Any]:
        response = self.client.post(f"/flow_runs/{run_id}/resume", json={"run_input": answers})
        return response.raise_for_status().json()

    @contextmanager
    def ending_what_waits(self) -> Iterator[None]:
        """A test that fails must not leave a run behind that waits for an answer for ever."""
        try:
            yield
        finally:
            for run in self.paused_runs():
                self.resume(run["id"], decision="reject", reviewer="nobody", comment="it failed")

    def paused_runs(self) -> list[dict[str, Any]]:
        chosen = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
        return self.client.post("/flow_runs/filter", json=chosen).json()

    def artifact(self, run_id: str, key: str) -> str:
        chosen = {"artifacts": {"flow_run_id": {"any_": [run_id]}, "key": {"any_": [key]}}}
        [artifact] = self.client.post("/artifacts/filter", json=chosen).json()
        return artifact["data"]


@pytest.fixture
def api(prefect_api: str) -> Iterator[Api]:
    api = Api(prefect_api)
    yield api
    api.client.close()


@pytest.fixture
def start(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts the pipeline in a thread, as a worker's process would run it."""
    monkeypatch.setattr("flows.approval.POLL_SECONDS", 0.2)
    with ThreadPoolExecutor(1) as pool, api.ending_what_waits():

        def run(config: PipelineConfig) -> State[Any]:
            state: State[Any] = pipeline(config, return_state=True)
            return state

        yield lambda config: pool.submit(copy_context().run, run, config)


def test_an_approved_dataset_is_trained_on_and_not_asked_about_again(
    api: Api, start: Start, fake_stages: Any, workspace: Workspace
) -> None:
    running = start(CONFIG)
    run = api.paused_run()
    assert fake_stages.stages == ["ingest", "index", "synthesize"]

    shown = api.artifact(run["id"], "docs-approval")
    page = shown.partition("[Open the review page](")[2].partition(")")[0]
    answer = httpx.get(page)  # without credentials, as a browser asks
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "raftline-review-1" in answer.text
    assert "3 of 9 rows" in shown
    assert r"\[otter" in shown  # a question cannot become a link
    form = api.form(run["id"], "schema").text
    assert "Your name" in form
    assert page in api.form(run["id"], "description").text

    refused = api.resume(run["id"])  # nobody approves by pressing a button without a decision
    assert refused["status"] == "REJECT"
    assert "decision" in refused["details"]["reason"]
    api.resume(run["id"], decision="approve", reviewer="Ada", comment="fine")
    summary = running.result(timeout=120).result()
    assert fake_stages.stages[3:] == ["finetune", "evaluate"]
    approval = last_approval(workspace, summary.dataset.ref)
    assert approval is not None
    assert (approval.is_approved, approval.reviewer) == (True, "Ada")
    assert approval.flow_run == run["id"]

    again = start(CONFIG).result(timeout=120).result()  # goes through without a pause
    assert again.is_unchanged


def test_a_rejected_dataset_ends_the_run_and_is_asked_about_again(
    api: Api, start: Start, fake_stages: Any, workspace: Workspace
) -> None:
    running = start(CONFIG)
    run = api.paused_run()
    api.resume(run["id"], decision="reject", reviewer="Ada", comment="too many dates")
    state = running.result(timeout=120)
    assert (state.type.value, state.name) == ("CANCELLED", "Rejected")
    with pytest.raises(CancelledRun):
        state.result()
    dataset = workspace.artifacts.resolve("dataset/docs@latest")
    assert state.message.startswith(f"{dataset} was rejected by Ada on 20")
    assert ": too many dates. Nothing was trained." in state.message
    seen = api.client.get(f"/flow_runs/{run['id']}").json()["state"]
    assert (seen["name"], seen["message"]) == ("Rejected", state.message)
    assert "finetune" not in fake_stages.stages

    running = start(CONFIG)
    run = api.paused_run()
    assert "It was rejected by Ada on" in api.artifact(run["id"], "docs-approval")
    api.resume(run["id"], decision="approve")
    assert running.result(timeout=120).is_completed()


def test_where_nobody_decides_in_time_the_run_fails_and_says_what_to_do(
    start: Start, fake_stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = PipelineConfig(name="docs", approval=ApprovalConfig(timeout_hours=1 / 3600))
    state = start(hurried).result(timeout=120)
    assert state.is_failed()
    assert "Nobody approved dataset/docs/" in state.message
    assert "everything so far is reused, and it asks again" in state.message
    assert "finetune" not in fake_stages.stages


def test_without_the_setting_nothing_pauses(start: Start, fake_stages: Any) -> None:
    assert start(PipelineConfig(name="docs")).result(timeout=120).is_completed()


def test_whether_to_ask_changes_no_artifact() -> None:
    asked = CONFIG.output_config()
    assert asked == PipelineConfig(name="docs").output_config()
