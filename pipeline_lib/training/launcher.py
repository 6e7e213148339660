"""Runs one training as a process group that this process owns.

torchrun starts the ranks; every one of them dies with its parent (see `guard`). However the wait
ends (success, failure, time limit, cancellation, Ctrl-C), no process of the group is left behind.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pipeline_lib import errors
from pipeline_lib.errors import TrainingError
from pipeline_lib.training.guard import PARENT_VARIABLE
from pipeline_lib.training.plan import ERROR_FILE, LOG_FILE, EventReader, TrainingPlan

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 15.0
_TAIL_LINES = 30
_MMAP_THRESHOLD_BYTES = 1 << 20


def run_training(plan: TrainingPlan, on_event: Callable[[dict[str, Any]], None]) -> None:
    """Train in a process group of `plan.config.num_processes` ranks and wait for its end.

    Args:
        plan: what to train; written to `plan.json` in its run folder.
        on_event: called in this process with every event of rank 0, in order. What it raises
            ends the training.

    Raises:
        TrainingError: a rank failed or the time limit passed; names the cause and ends with the
            last lines of the log.
    """
    plan_path = plan.run_folder / "plan.json"
    plan_path.write_text(plan.model_dump_json(indent=1))
    log_path = plan.run_folder / LOG_FILE
    deadline = time.monotonic() + plan.config.timeout_seconds
    reader = EventReader(plan.events_path)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            _command(plan, plan_path),
            env=_environment(plan),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                for event in reader.new_events():
                    on_event(event)
                if time.monotonic() > deadline:
                    raise TrainingError(
                        f"Training took longer than {plan.config.timeout_seconds} s and was ended",
                        hint="Raise finetune.timeout_seconds; it resumes from its last checkpoint.",
                    )
                time.sleep(_POLL_SECONDS)
        finally:
            _end_group(process)
    for event in reader.new_events():
        on_event(event)
    if process.returncode != 0:
        raise _failure(plan, process.returncode)


def _command(plan: TrainingPlan, plan_path: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pipeline_lib.training.guard",
        "torch.distributed.run",
        f"--nproc-per-node={plan.config.num_processes}",
        "--nnodes=1",
        "--max-restarts=0",
        f"--log-dir={plan.run_folder}",  # else torchrun leaves a folder in the system's own
        # The rendezvous picks a free port of its own; --standalone would look up the host name.
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
        "-m",
        "pipeline_lib.training.worker",
        str(plan_path),
    ]


def _environment(plan: TrainingPlan) -> dict[str, str]:
    environment = dict(os.environ)
    environment[PARENT_VARIABLE] = str(os.getpid())
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The model is a folder on this machine: a rank has no business with a hub.
    environment.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", PYTHONUNBUFFERED="1")
    # torch 2.13 deprecates collectives that DeepSpeed 0.19 calls: a warning per call and rank.
    environment["PYTHONWARNINGS"] = "ignore::FutureWarning:torch.distributed.c10d_logger"
    environment["HF_HOME"] = str(plan.run_folder / "hf")
    if plan.device == "cpu":
        threads = max(1, (os.cpu_count() or 1) // plan.config.num_processes)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        environment.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", GLOO_SOCKET_IFNAME="lo")
        # Rows differ in length, so do the buffers: glibc would keep the holes they leave.
        environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(_MMAP_THRESHOLD_BYTES))
        environment.setdefault("MALLOC_TRIM_THRESHOLD_", str(_MMAP_THRESHOLD_BYTES))
    return environment


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End torchrun and every rank: SIGTERM, a grace period, SIGKILL."""
    members = _members(process)
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        # torchrun gives each rank a session of its own, so the group alone does not reach them.
        for member in members:
            try:
                member.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, members = psutil.wait_procs(members, timeout=patience)
        if not members:
            break
    process.wait()
    if members:
        logger.error("These training processes survived SIGKILL: %s", [m.pid for m in members])


def _members(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    if process.returncode is not None:
        return []
    try:
        root = psutil.Process(process.pid)
        return [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return []


def _failure(plan: TrainingPlan, returncode: int) -> TrainingError:
    tail = "\n".join(log_tail(plan.run_folder / LOG_FILE))
    record_path = plan.run_folder / ERROR_FILE
    if record_path.exists():
        record = json.loads(record_path.read_text())
        kind = getattr(errors, record["type"], TrainingError)
        error_type = kind if issubclass(kind, TrainingError) else TrainingError
        return error_type(record["message"], hint=record["hint"])
    cause = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    return TrainingError(
        f"The training processes ended with {cause}. The end of their log:\n{tail}",
        hint="It resumes from its last checkpoint when started again.",
    )


def log_tail(path: Path) -> list[str]:
    """The last lines of a log, without torchrun's decoration."""
    lines = path.read_text(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-_TAIL_LINES:]
