"""Runs in other processes: wait for one, cancel one, read what one returned.

A run's result travels as an artifact of type `result` on the Prefect server: unlike Prefect's own
result files it can be read from any machine, and by anyone who talks to the API.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.artifacts import Artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
)
from prefect.client.schemas.objects import State, StateType
from pydantic import BaseModel

from pipeline_lib.errors import RaftlineError
from tasks.presentation import show
from tasks.progress import RunLogger

RESULT_TYPE = "result"
POLL_SECONDS = 3.0
OUTAGE_SECONDS = 900.0
"""How long the server may be unreachable while a run is awaited."""

Model = TypeVar("Model", bound=BaseModel)


def publish_result(result: BaseModel) -> None:
    """Make a flow's result readable over the API."""
    show(_create_result_artifact, data=result.model_dump(mode="json"))


def _create_result_artifact(data: dict[str, Any]) -> None:
    Artifact(type=RESULT_TYPE, description="What the flow returned.", data=data).create()


def read_result(client: SyncPrefectClient, flow_run_id: UUID, model: type[Model]) -> Model:
    """The result that a completed run published with `publish_result`.

    Raises:
        RaftlineError: it published none.
    """
    artifacts = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]),
            type=ArtifactFilterType(any_=[RESULT_TYPE]),
        )
    )
    if not artifacts:
        raise RaftlineError(
            f"The flow run {flow_run_id} completed without publishing a result",
            hint="Does its worker run the same version of raftline?",
        )
    return model.model_validate_json(str(artifacts[-1].data))


def await_run(
    client: SyncPrefectClient,
    flow_run_id: UUID,
    logger: RunLogger,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> State[Any]:
    """Wait until a run has ended; cancel it when the waiting is ended before.

    A server that cannot be reached for up to `OUTAGE_SECONDS` (a restart, an upgrade) is waited
    for: the run itself goes on meanwhile.

    Raises:
        httpx.HTTPError: the outage lasted longer; the run is left alone.
    """
    last_contact = clock()
    try:
        while True:
            try:
                state = client.read_flow_run(flow_run_id).state
                last_contact = clock()
            except httpx.HTTPError as error:
                if clock() - last_contact > OUTAGE_SECONDS:
                    raise
                logger.warning("The Prefect API does not answer, still waiting: %s", error)
                state = None
            if state is not None and state.is_final():
                return state
            sleep(POLL_SECONDS)
    except httpx.HTTPError:
        raise
    except BaseException:
        logger.warning("Cancelling the flow run %s that was waited for", flow_run_id)
        cancel_run(client, flow_run_id)
        raise


def cancel_run(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    """Ask for a run's end the way that reaches its processes: by its worker."""
    client.set_flow_run_state(flow_run_id, State(type=StateType.CANCELLING))
