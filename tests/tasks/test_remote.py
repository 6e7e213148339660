"""Waiting for a run elsewhere: through outages, and never leaving it behind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Running, State

from pipeline_lib.errors import RaftlineError
from pipeline_lib.stage import StageResult
from tasks.remote import OUTAGE_SECONDS, POLL_SECONDS, await_run, read_result

RUN = uuid4()
logger = logging.getLogger("test-remote")


class FakeClient:
    """A Prefect client whose answers are written down beforehand."""

    def __init__(self, answers: Sequence[State[Any] | BaseException]) -> None:
        self._answers = list(answers)
        self.states_set: list[tuple[UUID, State[Any]]] = []

    def read_flow_run(self, flow_run_id: UUID) -> SimpleNamespace:
        assert flow_run_id == RUN
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return SimpleNamespace(state=answer)

    def set_flow_run_state(self, flow_run_id: UUID, state: State[Any]) -> None:
        self.states_set.append((flow_run_id, state))

    def read_artifacts(self, **_: Any) -> list[Any]:
        return []


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def wait(client: FakeClient, time: Time | None = None) -> State[Any]:
    time = time or Time()
    return await_run(client, RUN, logger, clock=time, sleep=time.sleep)  # type: ignore[arg-type]


def test_the_final_state_is_returned() -> None:
    client = FakeClient([Running(), Running(), Completed(message="done")])
    time = Time()
    assert wait(client, time).message == "done"
    assert time.now == 2 * POLL_SECONDS
    assert client.states_set == []


def test_a_restart_of_the_server_is_waited_for() -> None:
    down = httpx.ConnectError("connection refused")
    assert wait(FakeClient([Running(), *[down] * 50, Completed()])).is_completed()


def test_a_long_outage_ends_the_waiting_but_not_the_run() -> None:
    attempts = int(OUTAGE_SECONDS / POLL_SECONDS) + 2
    client = FakeClient([Running(), *[httpx.ConnectError("connection refused")] * attempts])
    with pytest.raises(httpx.ConnectError):
        wait(client)
    assert client.states_set == []


class Terminated(BaseException):
    """As Prefect raises when a run is cancelled: no `Exception`."""


@pytest.mark.parametrize("interruption", [Terminated(), ObjectNotFound(http_exc=Exception("404"))])
def test_whoever_stops_waiting_cancels_the_run_by_way_of_its_worker(
    interruption: BaseException,
) -> None:
    client = FakeClient([Running(), interruption])
    with pytest.raises(type(interruption)):
        wait(client)
    [(run, state)] = client.states_set
    # CANCELLED would only change the record: no worker would end the process.
    assert (run, state.type) == (RUN, StateType.CANCELLING)


def test_a_run_without_a_result_is_an_error_with_a_hint() -> None:
    with pytest.raises(RaftlineError, match="without publishing a result") as missing:
        read_result(FakeClient([]), RUN, StageResult)  # type: ignore[arg-type]
    assert missing.value.hint is not None
