"""Whether the other machines of a training are there, and why one is not.

Below the run's own part of the unfinished artifact's partial work (see `sharing`):

    nodes/<rank>/alive        rewritten every few seconds while the machine takes part
    nodes/<rank>/report.json  what it failed of
    nodes/<rank>/left         it takes part no more, and has stored all that it will

Ranks that wait for one that is gone learn little of it: over gloo that a connection is lost, over
NCCL nothing for half an hour.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import StoreError
from pipeline_lib.training.diagnosis import NodeReport

logger = logging.getLogger(__name__)

_ALIVE, _REPORT, _LEFT = "alive", "report.json", "left"
_BEAT_SECONDS = 3.0
_LOOK_SECONDS = 1.0
_SILENCE_SECONDS = 60.0
"""While all goes well here: the store may be slow for a while."""
_SHORT_SILENCE_SECONDS = 12.0
"""When ranks have failed here, and the question is only why."""
_NEWS_SECONDS = 15.0
_OWN_ENDING_SECONDS = 5.0
"""For the ranks of this machine to fail by themselves, and perhaps say more."""


class NodesLostError(Exception):
    """Another machine has failed or is gone, and the ranks of this one wait for it."""


def run_root(run_id: str) -> str:
    """Where a run's own objects are, below the partial work."""
    return f"training/{run_id}/"


class Beating:
    """Calls `beat` with a number that grows, when the block begins and every few seconds in it.

    Args:
        beat: writes a sign of life to the store.
        unheard: said in the log when the store cannot be reached, for which others have patience.
    """

    def __init__(self, beat: Callable[[int], None], unheard: str) -> None:
        self._beat = beat
        self._unheard = unheard
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="presence", daemon=True)

    def __enter__(self) -> Self:
        self._beat(0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _keep_beating(self) -> None:
        number = 0
        while not self._is_over.wait(_BEAT_SECONDS):
            number += 1
            try:
                self._beat(number)
            except StoreError as error:
                logger.warning("%s: %s", self._unheard, error)


class Presence:
    """Says of this machine that it takes part, for as long as the block runs.

    What leaves the block by an exception has failed, and says of what.

    Args:
        partial: of the model being made.
        run_id: of the run.
        node: number of this machine.
    """

    def __init__(self, partial: PartialWork, run_id: str, node: int) -> None:
        self._partial = partial
        self._root = f"{_nodes_root(run_id)}{node}/"
        self._node = node
        self._has_told = False
        self._beating = Beating(self._beat, "Node 0 was not told that this machine lives")

    def __enter__(self) -> Self:
        self._beating.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._beating.__exit__()
        try:
            if error is not None and not self._has_told:
                self.tell(NodeReport.of(self._node, error))
            self._partial.put(self._root + _LEFT, b"")
        except StoreError as unheard:  # silence says it too, later
            logger.warning("Node 0 was not told that this machine has ended: %s", unheard)

    def tell(self, report: NodeReport) -> None:
        """Say what this machine failed of, before it has stored what it still has to."""
        self._partial.put(self._root + _REPORT, report.model_dump_json().encode())
        self._has_told = True

    def _beat(self, number: int) -> None:
        self._partial.put(self._root + _ALIVE, str(number).encode())


class OtherNodes:
    """What node 0 knows of the other machines of a run; safe to ask from several threads.

    A machine that has not joined yet is not missed: how long to wait for it is for the ranks here
    to say.

    Args:
        partial: of the model being made.
        run_id: of the run.
        clock: monotonic seconds.
    """

    def __init__(
        self, partial: PartialWork, run_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._partial = partial
        self._root = _nodes_root(run_id)
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._heard: dict[int, tuple[str, float]] = {}
        """Of each machine, the last sign of life and when it was new."""
        self._left: set[int] = set()
        self._ended: set[int] = set()
        self._lost: set[int] = set()
        self._reports: dict[int, NodeReport] = {}
        self._failed_at: float | None = None

    @property
    def reports(self) -> list[NodeReport]:
        """Of the machines that are known to have failed."""
        with self._lock:
            return [self._reports[node] for node in sorted(self._reports)]

    @property
    def lost(self) -> list[int]:
        """The machines that are gone without a word."""
        with self._lock:
            return sorted(self._missing(_SILENCE_SECONDS) - self._reports.keys())

    def check(self) -> None:
        """Look after them; cheap enough to be called in a loop.

        Raises:
            NodesLostError: one is gone; or has failed, and the ranks here have not ended over it.
        """
        with self._lock:
            self._look()
            now = self._clock()
            if self._reports and self._failed_at is None:
                self._failed_at = now
            is_stuck = self._failed_at is not None and now - self._failed_at > _OWN_ENDING_SECONDS
            if is_stuck or self._missing(_SILENCE_SECONDS):
                raise NodesLostError

    def is_gone(self, node: int) -> bool:
        """Whether a machine will store nothing any more."""
        with self._lock:
            self._look()
            return node in self._left or node in self._missing(_SILENCE_SECONDS)

    def has_ended(self, node: int) -> bool:
        """Take it that a machine's process has ended; whether it had ever joined."""
        with self._lock:
            if node not in self._ended:
                self._ended.add(node)
                self._looked_at = float("-inf")  # its last words came before
                self._look()
            return node in self._heard

    def settle(self) -> None:
        """Now that ranks have failed here: wait until each machine has said why, or is lost.

        Not for long: one that notices nothing of it has nothing to say.
        """
        deadline = self._clock() + _NEWS_SECONDS
        while self._clock() < deadline:
            with self._lock:
                self._look()
                known = self._reports.keys() | self._left | self._missing(_SHORT_SILENCE_SECONDS)
                if self._heard.keys() <= known:
                    return
            time.sleep(_LOOK_SECONDS / 2)

    def _look(self) -> None:
        if self._clock() - self._looked_at < _LOOK_SECONDS:
            return
        found: dict[str, str] = {}
        try:
            found = self._partial.tags(self._root)
            self._read_reports(found)
        except StoreError as error:
            logger.warning("The other machines could not be looked after: %s", error)
            # Nobody could be heard, so nobody was silent.
            self._heard = {node: ("", self._clock()) for node in self._heard}
        self._looked_at = now = self._clock()
        for key, tag in found.items():
            node, what = _parts(key, self._root)
            if what == _LEFT:
                self._left.add(node)
            elif what == _ALIVE and self._heard.get(node, ("", 0.0))[0] != tag:
                self._heard[node] = tag, now

    def _read_reports(self, keys: Iterable[str]) -> None:
        for key in keys:
            node, what = _parts(key, self._root)
            if what == _REPORT and node not in self._reports:
                data = self._partial.get(key)
                if data is not None:
                    self._reports[node] = NodeReport.model_validate_json(data)

    def _missing(self, silence_seconds: float) -> set[int]:
        """The lost ones; a machine that was silent for so long is one from now on."""
        now = self._clock()
        silent = {node for node, (_, at) in self._heard.items() if now - at > silence_seconds}
        self._lost |= (silent | self._ended & self._heard.keys()) - self._left
        return self._lost


def _nodes_root(run_id: str) -> str:
    return f"{run_root(run_id)}nodes/"


def _parts(key: str, root: str) -> tuple[int, str]:
    node, _, what = key.removeprefix(root).partition("/")
    return int(node), what
