"""A sign of life of each rank: a file whose time says when, and whose content says at which step.

A rank that computes makes one at every forward pass, of training as of validation and generation,
so silence means that it waits for something: for another rank, for a disk, for nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "heartbeat-"
_LEAST_SECONDS = 1.0
_DIGITS = 12


@dataclass(frozen=True)
class Beat:
    """The last sign of life of a rank."""

    step: int
    """Optimizer steps that it had finished."""
    at: float
    """Seconds since 1970."""


class Heartbeat:
    """Writes the signs of one rank, at most one a second.

    Args:
        run_folder: of the training.
        rank: of this process.
        clock: monotonic seconds.
    """

    def __init__(
        self, run_folder: Path, rank: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = run_folder / f"{_PREFIX}{rank}"
        self._clock = clock
        self._last: tuple[int, float] | None = None

    def beat(self, step: int) -> None:
        """This rank is alive, after `step` optimizer steps."""
        now = self._clock()
        if self._last is not None:
            last_step, at = self._last
            if step == last_step and now - at < _LEAST_SECONDS:
                return
        self._last = step, now
        # Of fixed length and over itself: a reader never finds half of it, or nothing.
        content = f"{step:0{_DIGITS}d}\n".encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, content, 0)
        finally:
            os.close(descriptor)


def read_heartbeats(run_folder: Path) -> dict[int, Beat]:
    """The last sign of every rank that has made one, by rank."""
    beats = {}
    for path in run_folder.glob(f"{_PREFIX}*"):
        content = path.read_text()
        if content:  # between creation and the first write there is none
            beats[int(path.name.removeprefix(_PREFIX))] = Beat(int(content), path.stat().st_mtime)
    return dict(sorted(beats.items()))
