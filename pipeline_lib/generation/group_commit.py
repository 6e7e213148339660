"""Writes that wait for each other: one at a time, each with all that came in during the last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

_SHORTEST_INTERVAL_SECONDS = 0.1
"""Between the starts of two writes, so that a fast store is not filled with tiny objects."""
_MOST_WAITING_BYTES = 64 * 1024 * 1024
"""Above this, `add` waits: a store that cannot keep up must not fill the memory."""


class GroupCommit:
    """Writes items in the background, in groups.

    Args:
        write: makes items durable, all or none; called in one thread, never twice at a time. What
            it raises is raised by the next `add`; after that, or at `flush`, it is tried again.
        name: of the thread.
    """

    def __init__(self, write: Callable[[Mapping[str, bytes]], None], *, name: str) -> None:
        self._write = write
        self._name = name
        self._changed = threading.Condition()
        self._waiting: dict[str, bytes] = {}
        self._writing: dict[str, bytes] = {}
        self._num_bytes = 0
        """Of what waits."""
        self._failure: Exception | None = None
        self._is_urgent = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def pending(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Those items that were added and are not known to be durable yet."""
        with self._changed:
            found: dict[str, bytes] = {}
            for key in keys:
                item = self._waiting.get(key) or self._writing.get(key)
                if item is not None:
                    found[key] = item
            return found

    def add(self, items: Mapping[str, bytes]) -> None:
        """Hand items over; a group is never divided between two writes.

        Raises:
            Exception: what the last write raised; these items are taken nevertheless.
        """
        with self._changed:
            if self._is_closed:
                raise ValueError(f"{self._name} are closed")
            self._waiting.update(items)
            self._num_bytes += sum(map(len, items.values()))
            self._raise_failure()
            self._start()
            self._changed.notify_all()
            while self._num_bytes > _MOST_WAITING_BYTES and self._failure is None:
                self._changed.wait()

    def flush(self) -> None:
        """Wait until everything is durable; what failed before is tried again.

        Raises:
            Exception: what the write raised now.
        """
        with self._changed:
            self._failure = None
            if self._waiting or self._writing:
                self._start()
            self._is_urgent = True
            self._changed.notify_all()
            while (self._waiting or self._writing) and self._failure is None:
                self._changed.wait()
            self._is_urgent = False
            self._raise_failure()

    def close(self) -> None:
        """Flush, and end the thread, also when that fails; nothing can be added any more."""
        if self._is_closed:
            return
        try:
            self.flush()
        finally:
            with self._changed:
                self._is_closed = True
                self._changed.notify_all()
            if self._thread is not None:
                self._thread.join()
                self._thread = None

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            self._changed.notify_all()
            raise failure

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: who forgets to close must not hang at exit.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._take():
            started = time.monotonic()
            try:
                self._write(self._writing)
            except Exception as error:  # noqa: BLE001 (raised in the caller's thread)
                self._give_back(error)
            else:
                self._done()
            self._rest(until=started + _SHORTEST_INTERVAL_SECONDS)

    def _take(self) -> bool:
        """Wait for something to write; false when there will be nothing any more."""
        with self._changed:
            while not self._is_closed and (not self._waiting or self._failure is not None):
                self._changed.wait()
            if self._is_closed:
                return False
            self._writing, self._waiting = self._waiting, {}
            self._num_bytes = 0
            return True

    def _done(self) -> None:
        with self._changed:
            self._writing = {}
            self._changed.notify_all()

    def _give_back(self, error: Exception) -> None:
        with self._changed:
            self._waiting = {**self._writing, **self._waiting}
            self._num_bytes = sum(map(len, self._waiting.values()))
            self._writing = {}
            self._failure = error
            self._changed.notify_all()

    def _rest(self, *, until: float) -> None:
        with self._changed:
            while not (self._is_urgent or self._is_closed):
                left = until - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)
