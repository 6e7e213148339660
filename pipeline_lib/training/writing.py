"""Writes checkpoints beside the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline_lib.errors import TrainingError

_POLL_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 1800.0


class BackgroundWriter:
    """Runs one job at a time in a thread; what a job raises comes back to the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Run a job, after the one before has ended."""
        self.wait()
        # A daemon: a rank that fails must not wait for the others' files.
        self._thread = threading.Thread(
            target=self._run, args=(job,), name="checkpoint-writer", daemon=True
        )
        self._thread.start()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001  (raised again by `check`)
            self._failure = error

    def check(self) -> None:
        """Raise what a job that has ended raised."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Wait for the job that runs, if any, and raise what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()


def wait_for_files(paths: Iterable[Path]) -> None:
    """Wait until other ranks have written these.

    Not by a collective: those of a thread would mix with those of the training.

    Raises:
        TrainingError: they did not for half an hour.
    """
    deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
    for path in paths:
        while not path.exists():
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"Another rank did not write {path} within {_LONGEST_WAIT_SECONDS:.0f} s",
                    hint="See whether the disk is full or slow; it resumes from the checkpoint "
                    "before.",
                )
            time.sleep(_POLL_SECONDS)
