"""Names of runs, and what becomes of a run with an unknown parameter."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from flows.index import index
from flows.runtime import explain_unknown_parameters, run_name
from pipeline_lib.config import PipelineConfig


@pytest.mark.parametrize(
    ("given", "parameters", "name"),
    [
        ("fuzzy-otter", {"name": "docs"}, "index docs"),
        ("Rustic-Osprey", {"name": "docs"}, "index docs"),  # as the UI's form invents them
        ("lambda3-edison", {"name": "docs"}, "index docs"),
        ("xi146-hawking-r", {"name": "docs"}, "index docs"),
        ("xi2-excalbia-terminus", {"name": "docs"}, "index docs"),
        ("fuzzy-otter", {"config": PipelineConfig(name="docs")}, "index docs"),
        ("nightly", {"name": "docs"}, "nightly"),
        ("My own name", {"name": "docs"}, "My own name"),
        ("retry-of-monday", {"name": "docs"}, "retry-of-monday"),
    ],
)
def test_invented_names_are_replaced_and_given_ones_kept(
    given: str, parameters: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SimpleNamespace(name=given, flow_name="index", parameters=parameters)
    monkeypatch.setattr("flows.runtime.runtime", SimpleNamespace(flow_run=run))
    assert run_name() == name


class FakeClient:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def set_flow_run_state(self, flow_run_id: str, state: Any, force: bool) -> None:
        self.calls.append((flow_run_id, state.type, state.message, force))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()

    @contextmanager
    def get_client(*, sync_client: bool) -> Any:
        assert sync_client
        yield fake

    monkeypatch.setattr("flows.runtime.get_client", get_client)
    return fake


def test_a_crash_over_unknown_parameters_is_given_a_message_that_names_them(
    client: FakeClient,
) -> None:
    run = SimpleNamespace(id="run", parameters={"nme": "docs", "name": "docs", "corpsu": "latest"})
    explain_unknown_parameters(flow=index, flow_run=run, state=Crashed())  # type: ignore[arg-type]
    message = (
        "Unknown parameters 'corpsu', 'nme'; the flow 'index' takes name, corpus, config, fan_out"
    )
    assert client.calls == [("run", StateType.FAILED, message, True)]


def test_other_crashes_are_left_alone(client: FakeClient) -> None:
    run = SimpleNamespace(id="run", parameters={"name": "docs"})
    explain_unknown_parameters(flow=index, flow_run=run, state=Crashed())  # type: ignore[arg-type]
    assert client.calls == []


def test_hooks_have_the_argument_names_that_prefect_passes() -> None:
    """With others it only logs a TypeError."""
    assert list(inspect.signature(explain_unknown_parameters).parameters) == [
        "flow",
        "flow_run",
        "state",
    ]
