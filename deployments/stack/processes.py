"""Processes that outlive the command that started them, found again without ever mistaking one.

A record is a pid and the process's creation time: a stale file names a pid that is gone, a recycled
pid has another creation time. Every process also carries the mark of its stack and component in its
environment, which its descendants inherit; so a flow run's trainer is found even when its worker
has died, and a component even when the record was lost.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict

MARK_VARIABLE = "RAFTLINE_STACK_COMPONENT"
_SAME_PROCESS_SECONDS = 1.0
"""Creation times are derived from the boot time, which a clock correction moves a little."""
_KILL_WAIT_SECONDS = 5.0
_MAX_LOG_BYTES = 10_000_000
_LOG_TAIL_LINES = 15
_POLL_SECONDS = 0.05


class ProcessRecord(BaseModel):
    """Names one process for as long as the machine is up."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    """Seconds since the epoch."""

    @classmethod
    def of(cls, process: psutil.Process) -> Self:
        """The record of a running process."""
        return cls(pid=process.pid, created=process.create_time())


def mark(home: Path, component: str) -> str:
    """What a component's processes carry in `MARK_VARIABLE`."""
    return f"{home}:{component}"


def spawn(
    command: Sequence[str], *, environment: Mapping[str, str], log_path: Path, cwd: Path
) -> ProcessRecord:
    """Start a process in its own session, its output appended to a log.

    The previous log is kept as `<name>.1` once it has grown past 10 MB.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    if log_path.is_file() and log_path.stat().st_size > _MAX_LOG_BYTES:
        log_path.replace(log_path.with_name(log_path.name + ".1"))
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    record = ProcessRecord.of(psutil.Process(process.pid))
    # It is meant to outlive us: keeps Popen from warning about a process nobody waited for.
    process.returncode = 0
    return record


def find(record: ProcessRecord | None) -> psutil.Process | None:
    """The recorded process if it is alive and still the same one."""
    if record is None:
        return None
    try:
        process = psutil.Process(record.pid)
        is_same = abs(process.create_time() - record.created) < _SAME_PROCESS_SECONDS
    except psutil.Error:
        return None
    return process if is_same and _is_alive(process) else None


def marked(marks: Iterable[str], command: Sequence[str] | None = None) -> list[psutil.Process]:
    """Processes of this user that carry one of the marks, ourselves excepted.

    Args:
        marks: see `mark`.
        command: only those started with the same arguments, whatever the path of the program.
    """
    wanted = set(marks)
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.environ().get(MARK_VARIABLE) not in wanted:
                continue
            if command is None or process.cmdline()[1:] == list(command[1:]):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or somebody else's
    return found


def _with_descendants(process: psutil.Process) -> list[psutil.Process]:
    """The process and everything below it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def end(records: Iterable[ProcessRecord], marks: Iterable[str], *, grace_seconds: float) -> int:
    """End recorded processes, their descendants, and everything marked: SIGTERM, then SIGKILL.

    Returns:
        How many processes there were.
    """
    marks = list(marks)
    targets: dict[int, psutil.Process] = {}
    for record in records:
        process = find(record)
        if process is not None:
            targets.update((each.pid, each) for each in _with_descendants(process))
    targets.update((each.pid, each) for each in marked(marks))
    for process in targets.values():
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    remaining = _wait_until_gone(targets.values(), grace_seconds)
    # Also those that were born while their parents were being ended.
    late = {each.pid: each for each in (*remaining, *marked(marks))}
    for process in late.values():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_until_gone(late.values(), _KILL_WAIT_SECONDS)
    return len(targets | late)


def _wait_until_gone(
    processes: Iterable[psutil.Process], timeout_seconds: float
) -> list[psutil.Process]:
    """Wait, and return those that are left. A zombie is gone: its parent may be long about it."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        alive = [process for process in processes if _is_alive(process)]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(_POLL_SECONDS)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def log_tail(path: Path, num_lines: int = _LOG_TAIL_LINES) -> str:
    """The last lines of a log, indented."""
    if not path.is_file():
        return "  (no log)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-num_lines:]) or "  (empty)"
