"""A real Prefect server with everything deployed, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.prefect_client import prefect_client

REPOSITORY = Path(__file__).resolve().parents[2]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands' output is as wide as in a log, whoever runs the tests, and where."""
    monkeypatch.delenv("COLUMNS", raising=False)


class Api:
    """The server over HTTP."""

    def __init__(self, url: str) -> None:
        self.client = prefect_client(url)

    def deployment(self, name: str) -> dict[str, Any]:
        return self.client.get(f"/deployments/name/{name}").raise_for_status().json()

    def start(self, deployment: str, parameters: dict[str, Any], **fields: Any) -> httpx.Response:
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, **fields}
        path = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        return self.client.post(path, json=body)

    def park(self, name: str) -> str:
        """Create a run that no worker will take before tomorrow."""
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": tomorrow}}
        return self.start(name, {}, state=state).raise_for_status().json()["id"]

    def set_state(self, run_id: str, state_type: str) -> dict[str, Any]:
        state = {"state": {"type": state_type}}
        return self.client.post(f"/flow_runs/{run_id}/set_state", json=state).json()

    def state(self, run_id: str) -> dict[str, Any]:
        return self.client.get(f"/flow_runs/{run_id}").json()["state"]

    def wait(
        self, run_id: str, is_reached: Callable[[dict[str, Any]], bool], seconds: float = 150
    ) -> dict[str, Any]:
        """The run's state once `is_reached`."""
        deadline = time.monotonic() + seconds
        while not is_reached(state := self.state(run_id)):
            assert time.monotonic() < deadline, f"still {state}\n{self.log(run_id)}"
            time.sleep(0.3)
        return state

    def wait_for_end(self, run_id: str) -> dict[str, Any]:
        """The run's final state."""
        return self.wait(run_id, lambda state: state["type"] in FINAL)

    def wait_for_line(self, run_id: str, text: str, seconds: float = 30) -> None:
        """Until the run's log, which may arrive after its final state, has the text."""
        deadline = time.monotonic() + seconds
        while text not in self.log(run_id):
            assert time.monotonic() < deadline, f"{text!r} is not in\n{self.log(run_id)}"
            time.sleep(0.3)

    def log(self, run_id: str) -> str:
        chosen = {"logs": {"flow_run_id": {"any_": [run_id]}}}
        lines = self.client.post("/logs/filter", json=chosen).json()
        return "\n".join(line["message"] for line in lines)

    def result(self, run_id: str) -> str:
        """The JSON that the run's flow returned."""
        chosen = {"flow_run_id": {"any_": [run_id]}, "type": {"any_": ["result"]}}
        [artifact] = self.client.post("/artifacts/filter", json={"artifacts": chosen}).json()
        return artifact["data"]


@pytest.fixture(scope="module")
def api(prefect_server: Any) -> Iterator[Api]:
    api = Api(prefect_server.api_url)
    yield api
    api.client.close()


@pytest.fixture(scope="module")
def deploy(prefect_server: Any) -> Callable[[], list[str]]:
    """Deploys everything to the server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.deploy import deploy_all

    def deploy() -> list[str]:
        with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
            return deploy_all(REPOSITORY)

    return deploy
