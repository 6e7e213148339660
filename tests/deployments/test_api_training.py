"""A training started by API: it outlives a restart of the server, and ends when it is cancelled."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline_lib.raft.rows import SPLITS, RaftRow, Split
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace
from pipeline_lib.training.plan import EVENTS_FILE
from tests.artifacts.made_artifacts import publish
from tests.raft.made_rows import bare_row, write_splits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ENDLESS = {
    "supervised": {"num_epochs": 100_000.0},
    "batch": {"global_batch_size": 2},
    "checkpoints": {"every_steps": 1_000_000},
    "engine": {"precision": "fp32"},
}


def test_a_training_survives_the_servers_restart_and_leaves_no_rank_when_cancelled(
    api: Any,
    deploy: Callable[[], list[str]],
    prefect_server: Any,
    start_worker: Callable[[str], int],
    worker_settings: Settings,
    tiny_model_path: Path,
) -> None:
    deploy()
    start_worker("gpu")
    workspace = Workspace.open(settings=worker_settings)
    publish_dataset(workspace)
    config = {**ENDLESS, "base_model": str(tiny_model_path)}
    started = api.start("finetune/finetune", {"name": "docs", "config": config})
    run = started.raise_for_status().json()["id"]
    lease = _lease_of_a_pipeline_run(api)
    _until(lambda: _step(prefect_server.home) > 0, "no step yet")
    ranks = _ranks(prefect_server.home)
    assert len(ranks) == 2

    prefect_server.stop()
    time.sleep(1)
    prefect_server.start()

    # Prefect's default keeps leases in memory: this would be 410, and the run would be crashed.
    renewal = api.client.post(
        f"/v2/concurrency_limits/leases/{lease}/renew", json={"lease_duration": 300}
    )
    assert renewal.status_code == 204, renewal.text
    assert api.set_state(api.park("pipeline/pipeline"), "PENDING")["status"] == "REJECT"
    assert api.state(run)["type"] == "RUNNING"
    assert all(rank.is_running() for rank in ranks)
    before = _step(prefect_server.home)
    _until(lambda: _step(prefect_server.home) > before, "training does not go on")
    assert _checkpoint(workspace) == 0

    assert api.set_state(run, "CANCELLING")["status"] == "ACCEPT"
    state = api.wait_for_end(run)
    assert state["type"] == "CANCELLED"
    _until(lambda: not _ranks(prefect_server.home), "ranks are still alive", seconds=10)
    assert not any(rank.is_running() for rank in ranks)
    # Made because the run was cancelled; from it the next one resumes.
    assert _checkpoint(workspace) > before


def publish_dataset(workspace: Workspace) -> None:
    """A dataset of a few rows."""

    rows = [_row(split, number) for split in SPLITS for number in range(4)]
    publish(workspace, "dataset", lambda draft: write_splits(draft.directory, rows), name="docs")


def _row(split: Split, number: int) -> RaftRow:
    text = f"Otter {number} sleeps on its back."
    return bare_row(
        f"How does otter {number} sleep?",
        row_id=f"{split}-{number}",
        row_key=f"{split}-{number}",
        split=split,
        text=text,
        quoted=text,
        final_answer="On its back.",
    )


def _lease_of_a_pipeline_run(api: Any) -> str:
    """Of a run that holds the pipeline's only slot."""
    state = api.set_state(api.park("pipeline/pipeline"), "PENDING")["state"]
    return state["state_details"]["deployment_concurrency_lease_id"]


def _ranks(home: Path) -> list[psutil.Process]:
    """The training ranks of this test's worker, and of no other on the machine."""
    ranks = []
    for process in psutil.process_iter():
        try:
            if "pipeline_lib.training.worker" not in process.cmdline():
                continue
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if "RANK" in environment and environment.get("RAFTLINE_HOME") == str(home):
            ranks.append(process)
    return ranks


def _checkpoint(workspace: Workspace) -> int:
    """Step of the newest complete checkpoint in S3; 0 before the first."""
    objects = workspace.artifacts.objects.scan("_partial/model/docs/")
    complete = [Path(info.key) for info in objects if info.key.endswith("/complete.json")]
    return max((int(path.parent.name) for path in complete), default=0)


def _step(home: Path) -> int:
    """The last step of the training under way; 0 before the first."""
    lines = [line for path in home.rglob(EVENTS_FILE) for line in path.read_text().splitlines()]
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return max((event["step"] for event in events if event["event"] == "step"), default=0)


def _until(condition: Callable[[], bool], complaint: str, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.3)
