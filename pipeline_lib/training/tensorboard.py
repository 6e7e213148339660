"""Scalars in TensorBoard's own files, by tensorboardX, which needs no TensorBoard."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self


class ScalarWriter:
    """Appends scalars to one file, which TensorBoard can read while it grows.

    Args:
        path: its name must hold `tfevents`, or TensorBoard passes it over.
        clock: seconds since 1970, shown as the time of an entry.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._event = Event
        # Not its SummaryWriter, which names the file after this machine.
        self._records = RecordWriter(str(path))
        # Also where a training fails before anybody closes this.
        self.close = weakref.finalize(self, self._records.close)
        self._write(file_version="brain.Event:2")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the values of a step, by tag; `loss/train` is the chart `train` of group `loss`."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(step=step, summary=Summary(value=values))

    def _write(self, **fields: object) -> None:
        event = self._event(wall_time=self._clock(), **fields)
        self._records.write(event.SerializeToString())
        self._records.flush()
