"""Flow runs whose processes `down` has ended: tell the Prefect server, which cannot know."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from deployments.stack.http import HttpError, request_json

logger = logging.getLogger(__name__)

_ACTIVE = ("PENDING", "RUNNING", "CANCELLING")


def close_flow_runs(api_url: str, work_pools: Sequence[str]) -> int:
    """Mark the active runs of these work pools as Cancelled; call it when no worker is left.

    Otherwise they would stay Running for ever, and hold their slots of concurrency limits. A
    server that does not answer keeps them so: it is about to end, and `down` must not fail for it.

    Returns:
        How many there were.
    """
    chosen = {
        "flow_runs": {"state": {"type": {"any_": _ACTIVE}}},
        "work_pools": {"name": {"any_": work_pools}},
        "limit": 200,
    }
    state = {
        "type": "CANCELLED",
        "message": "Ended by `raftline down`. Run it again: finished stages are reused.",
    }
    try:
        runs = request_json(f"{api_url}/flow_runs/filter", chosen)
        for run in runs:
            change = {"state": state, "force": True}
            request_json(f"{api_url}/flow_runs/{run['id']}/set_state", change)
    except HttpError as error:
        logger.warning("Flow runs that were under way may still be shown as running: %s", error)
        return 0
    return len(runs)
