"""Runs an arm in a process of its own and measures it from outside, all arms alike.

The clocks are read when an event appears in the arm's run folder, which is looked at every few
milliseconds: wall time, and the CPU time of the arm's process with all its children. Memory on a
CPU is the kernel's high-water mark of resident memory, reset when the model is loaded, without what
is mapped from files: weights in the precision of their file become resident as they are first used,
behind that moment. On a GPU it is what the arm reports of torch's allocator. A run is ended after
its last step: what it would save is not measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.training.harness.job import JOB_FILE, OUTPUT_FILE, ArmJob, ArmName
from pipeline_lib.training.nodes import C_LIBRARY_MEMORY
from pipeline_lib.training.plan import EVENTS_FILE, EventReader

_POLL_SECONDS = 0.005
_MEMORY_EVERY_SECONDS = 0.25
_TAIL_CHARACTERS = 3000


class ArmFailedError(Exception):
    """An arm's process ended before its last step."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run of one arm, without its first `warmup` steps."""

    arm: ArmName
    round: int
    num_steps: int
    """Measured."""
    wall_seconds: float
    cpu_seconds: float
    """Of all its processes."""
    losses: tuple[float, ...]
    """Of every step, the first ones included."""
    loaded_bytes: int | None
    """When the model had been loaded; `None`: not told."""
    peak_bytes: int | None
    """After that."""
    mfu: float | None
    """The arm's own count, where it has one."""


@dataclass
class _Marks:
    """What has been seen of a run so far."""

    wall: list[float]
    cpu: list[float]
    losses: list[float]
    loaded_bytes: int | None = None
    peak_bytes: int | None = None
    mfu: float | None = None


def measure(job: ArmJob, round_number: int, warmup: int) -> Measurement:
    """Run a job and wait for its last step.

    Raises:
        ArmFailedError: with the end of its output.
    """
    job.run_folder.mkdir(parents=True)
    job_path = job.run_folder / JOB_FILE
    job_path.write_text(job.model_dump_json(indent=1))
    with (job.run_folder / OUTPUT_FILE).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training.harness.arms", str(job_path)],
            env=_environment(job),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            marks = _watch(process, job)
        finally:
            _end(process)
    first, last = warmup - 1, job.num_steps - 1
    return Measurement(
        arm=job.arm,
        round=round_number,
        num_steps=last - first,
        wall_seconds=marks.wall[last] - marks.wall[first],
        cpu_seconds=marks.cpu[last] - marks.cpu[first],
        losses=tuple(marks.losses),
        loaded_bytes=marks.loaded_bytes,
        peak_bytes=marks.peak_bytes,
        mfu=marks.mfu,
    )


def _environment(job: ArmJob) -> dict[str, str]:
    """The same for all arms: what the product's launcher sets for speed, its peers get too."""
    environment = dict(os.environ)
    environment.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        PYTHONUNBUFFERED="1",
        HF_HOME=str(job.run_folder / "hf"),
        HF_DATASETS_CACHE=str(job.run_folder / "hf-datasets"),
    )
    if job.device == "cpu":
        threads = max(1, (os.cpu_count() or 1) // job.num_processes)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        environment = C_LIBRARY_MEMORY | environment
    return environment


def _watch(process: subprocess.Popen[bytes], job: ArmJob) -> _Marks:
    marks = _Marks([], [], [])
    reader = EventReader(job.run_folder / EVENTS_FILE)
    next_memory = 0.0
    while len(marks.losses) < job.num_steps:
        has_ended = process.poll() is not None
        for event in reader.new_events():
            _note(marks, event, process, job)
        if has_ended and len(marks.losses) < job.num_steps:
            raise ArmFailedError(
                f"{job.arm} ended after {len(marks.losses)} of {job.num_steps} steps with exit "
                f"code {process.returncode}:\n{_tail(job)}"
            )
        if job.device == "cpu" and marks.loaded_bytes and time.monotonic() > next_memory:
            _read_peak(marks, process)
            next_memory = time.monotonic() + _MEMORY_EVERY_SECONDS
        time.sleep(_POLL_SECONDS)
    return marks


def _note(
    marks: _Marks, event: dict[str, Any], process: subprocess.Popen[bytes], job: ArmJob
) -> None:
    if event["event"] == "start":
        if job.device == "cpu":
            marks.loaded_bytes = _reset_peak(process)
        else:
            marks.loaded_bytes = event.get("memory_bytes")
    elif event["event"] == "step":
        marks.wall.append(time.monotonic())
        marks.cpu.append(_cpu_seconds(process))
        marks.losses.append(event["loss"])
        marks.mfu = event.get("mfu")
        if job.device == "cpu":
            _read_peak(marks, process)
        elif event.get("memory_bytes"):
            marks.peak_bytes = max(marks.peak_bytes or 0, event["memory_bytes"])


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    total = 0.0
    for member in _family(process):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _reset_peak(process: subprocess.Popen[bytes]) -> int:
    """Set every high-water mark back to what is resident now; returns their sum."""
    for member in _family(process):
        Path(f"/proc/{member.pid}/clear_refs").write_text("5")
    return _peak_bytes(process)


def _read_peak(marks: _Marks, process: subprocess.Popen[bytes]) -> None:
    marks.peak_bytes = max(marks.peak_bytes or 0, _peak_bytes(process))


def _peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """High-water marks of all its processes, without what is mapped from files."""
    total = 0
    for member in _family(process):
        try:
            status = Path(f"/proc/{member.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "VmHWM:" in status:  # a process that has ended, but was not waited for, has none
            total += _kilobytes(status, "VmHWM") - _kilobytes(status, "RssFile")
    return total * 1024


def _kilobytes(status: str, name: str) -> int:
    return int(status.split(f"{name}:")[1].split()[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    members = _family(process)
    for member in reversed(members):  # children first, so that none reports a failure
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(members, timeout=30)


def _tail(job: ArmJob) -> str:
    return "\n".join(
        f"--- {path.name}\n{path.read_text(errors='replace')[-_TAIL_CHARACTERS:]}"
        for path in sorted(job.run_folder.glob("*.log"))
    )
