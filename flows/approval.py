"""A pause in which a person looks at the dataset and decides whether it is trained on."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Cancelled, Failed, Running
from prefect.utilities.urls import url_for
from pydantic import ConfigDict, Field

from pipeline_lib.config import ApprovalConfig
from pipeline_lib.stage import StageResult
from tasks.approval import Pending, record_decision, rejection_message, show_for_approval

REJECTED = "Rejected"
POLL_SECONDS = 10
"""How often the run asks whether it was resumed."""


class DatasetDecision(RunInput):
    """The form with which a run is resumed."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["approve", "reject"] = Field(
        title="Decision", description="Approve: train on this dataset. Reject: end the run."
    )
    reviewer: str = Field("", max_length=200, title="Your name", description="For the record.")
    comment: str = Field("", max_length=2000, title="Comment", description="For the record.")


def ask_for_approval(config: ApprovalConfig, dataset: StageResult) -> Any:
    """Wait for a person's decision about a dataset; to be called by a flow.

    Returns at once when this very dataset was approved before.

    Returns:
        `None` to go on; else the state that the flow has to end in: `Rejected` (a cancellation) or,
        when nobody decided in time, failed.
    """
    logger = get_run_logger()
    pending = show_for_approval(config, dataset.ref)
    if pending is None:
        logger.info("%s was approved before", dataset.ref)
        return None
    # A warning, so that it is seen on a terminal too.
    place = url_for("flow-run", obj_id=runtime.flow_run.id)
    logger.warning("Waiting for somebody to approve %s: resume the run at %s", dataset.ref, place)
    try:
        given = pause_flow_run(
            wait_for_input=DatasetDecision.with_initial_data(_description(dataset, pending)),
            timeout=int(config.timeout_hours * 3600),
            poll_interval=POLL_SECONDS,
        )
    except FlowPauseTimeout:
        _leave_pause()
        return Failed(
            message=f"Nobody approved {dataset.ref} within {config.timeout_hours:g} hours. Run the "
            "pipeline again: everything so far is reused, and it asks again."
        )
    approval = record_decision(
        dataset.ref,
        is_approved=given.decision == "approve",
        reviewer=given.reviewer,
        comment=given.comment,
        flow_run=str(runtime.flow_run.id),
    )
    if approval.is_approved:
        return None
    return Cancelled(name=REJECTED, message=rejection_message(approval))


def _leave_pause() -> None:
    """Set the run going again.

    To a run whose pause has run out the server allows no end but one with its own message, which
    does not say what to do.
    """
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(runtime.flow_run.id), Running(), force=True)


def _description(dataset: StageResult, pending: Pending) -> str:
    return (
        f"**{dataset.ref.name}** waits with `{dataset.ref}`: "
        f"{dataset.counts.get('num_rows', 0):,} rows.\n\n"
        f"[Open the review page]({pending.page}), or see the artifact "
        f"`{dataset.ref.name}-approval` of this run."
    )
