"""The processes of one training on this machine: which there are, and how all of them are ended."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterable

import psutil

logger = logging.getLogger(__name__)

WORKER_MODULE = "pipeline_lib.training.worker"
_LOOK_SECONDS = 2.0
_POLL_SECONDS = 0.1
_KILL_SECONDS = 15.0


class ProcessGroup:
    """A process that was started here, and all that came of it.

    torchrun gives every rank a session of its own, so no process group of the system reaches them,
    and once it is gone nothing says whose children they were. Hence they are looked up while it
    lives.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._seen: dict[int, psutil.Process] = {}
        self._looked_at = float("-inf")

    def look(self) -> None:
        """Remember who belongs to it; cheap enough to be called in a loop."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._members()

    def ranks(self) -> dict[int, psutil.Process]:
        """The living ranks of this machine, by rank."""
        return {
            rank: member for member in self._members() if (rank := _rank_of(member)) is not None
        }

    def end(self, grace_seconds: float, on_wait: Callable[[], None]) -> None:
        """End every process: SIGTERM to the ranks, a time of grace, SIGKILL to what is left.

        The ranks alone are told: torchrun would give them its own time instead of ours.

        Args:
            grace_seconds: how long the ranks may take to save.
            on_wait: called again and again while they do. What it raises cuts their time short.
        """
        try:
            told = list(self.ranks().values()) if grace_seconds > 0 else []
            _send(told, signal.SIGTERM)
            deadline = time.monotonic() + grace_seconds
            while told and self._alive() and time.monotonic() < deadline:
                on_wait()
                time.sleep(_POLL_SECONDS)
        finally:
            members = self._alive()
            _send(members, signal.SIGKILL)
            _, survivors = psutil.wait_procs(members, timeout=_KILL_SECONDS)
            self._process.wait()
            if survivors:
                pids = [member.pid for member in survivors]
                logger.error("These training processes survived SIGKILL: %s", pids)

    def _members(self) -> list[psutil.Process]:
        if self._process.poll() is None:
            try:
                root = psutil.Process(self._process.pid)
                found = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                found = []
            self._seen |= {member.pid: member for member in found}
        return self._alive()

    def _alive(self) -> list[psutil.Process]:
        self._process.poll()  # else it would stay as a zombie
        return [member for member in self._seen.values() if _is_alive(member)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _rank_of(process: psutil.Process) -> int | None:
    try:
        if WORKER_MODULE not in process.cmdline():
            return None
        rank = process.environ().get("RANK")  # torchrun, whose arguments name it too, has none
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return None if rank is None else int(rank)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
