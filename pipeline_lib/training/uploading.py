"""Stores checkpoints in S3 beside the training, in a thread of the process that owns it.

Training never waits for S3. When it makes checkpoints faster than they can be stored, the newest
goes first and what it supersedes is left out, except for the best.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.training.checkpoints import upload_checkpoint, upload_part

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Finished:
    """A checkpoint that the ranks of this machine have written."""

    step: int
    folder: Path
    is_best: bool
    node: int


class CheckpointUploader:
    """Uploads what it is given, then deletes it here.

    Use it in a `with` statement around the training: leaving it waits for what is still to be
    stored, also when the training has failed.

    Args:
        partial: of the model that is trained.
        folder: where the ranks write checkpoints.
        keep_last: see `upload_checkpoint`.
        keep_best_here: leave the best one in `folder`, for the ranks to go back to.
        num_nodes: of the training.
        is_owner: this process owns the training; other machines' store only their part.
        is_gone: whether another machine will store nothing any more, by its number.
    """

    def __init__(
        self,
        partial: PartialWork,
        folder: Path,
        *,
        keep_last: int,
        keep_best_here: bool = False,
        num_nodes: int = 1,
        is_owner: bool = True,
        is_gone: Callable[[int], bool] = lambda _node: False,
    ) -> None:
        self._partial = partial
        self._folder = folder
        self._keep_last = keep_last
        self._keep_best_here = keep_best_here
        self._num_nodes = num_nodes
        self._is_owner = is_owner
        self._is_gone = is_gone
        self._changed = threading.Condition()
        self._waiting: list[_Finished] = []
        self._is_closing = False
        self._failure: BaseException | None = None
        self._best_here: Path | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint-uploader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        if error is None:
            self.check()
        elif self._failure is not None:
            logger.warning("The last checkpoint could not be stored: %s", self._failure)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take on the checkpoint of a `checkpoint` event (`step`, `folder`, `is_best`, `node`).

        Of any other event nothing is taken.

        Raises:
            StoreError: an earlier checkpoint could not be stored.
        """
        self.check()
        if event.get("event", "checkpoint") != "checkpoint":
            return
        finished = _Finished(
            step=event["step"],
            folder=self._folder / event["folder"],
            is_best=event["is_best"],
            node=event["node"],
        )
        with self._changed:
            for older in self._superseded(finished):
                logger.info("S3 is slower than the training: step %d is not stored", older.step)
                self._waiting.remove(older)
                shutil.rmtree(older.folder)
            self._waiting.append(finished)
            self._changed.notify()

    def check(self) -> None:
        """Raise what an upload raised."""
        with self._changed:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _superseded(self, newer: _Finished) -> list[_Finished]:
        if self._num_nodes > 1:
            return []  # every node must choose the same
        return [older for older in self._waiting if newer.is_best or not older.is_best]

    def _run(self) -> None:
        while (finished := self._next()) is not None:
            try:
                self._upload(finished)
            except BaseException as error:  # noqa: BLE001  (raised again by `check`)
                self._failure = error
                return

    def _next(self) -> _Finished | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            return self._waiting.pop(0) if self._waiting else None

    def _upload(self, finished: _Finished) -> None:
        if self._is_owner:
            upload_checkpoint(
                self._partial,
                finished.folder,
                finished.step,
                is_best=finished.is_best,
                keep_last=self._keep_last,
                node=finished.node,
                num_nodes=self._num_nodes,
                is_gone=self._is_gone,
            )
        else:
            upload_part(self._partial, finished.folder, finished.step, node=finished.node)
        if not (finished.is_best and self._keep_best_here):
            shutil.rmtree(finished.folder)
            return
        if self._best_here is not None:
            shutil.rmtree(self._best_here)
        self._best_here = finished.folder
