"""Notices that no rank does anything any more, and says what each of them hangs in.

A rank that waits for another in a collective waits for ever, or for a half-hour limit of a library
that then ends it with a message about a timeout. Every rank's stack tells which one is waited for.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from pipeline_lib.errors import HungTrainingError
from pipeline_lib.training.heartbeat import read_heartbeats
from pipeline_lib.training.plan import TrainingPlan

STACK_SIGNAL = signal.SIGUSR1
"""A rank that gets it writes the stacks of its threads into `stack_path`, whatever it is doing."""
_STACK_SECONDS = 3.0
_LOOK_SECONDS = 0.5
_STACK_LOOK_SECONDS = 0.2
_TOP_FRAMES = 5
_CURRENT = "Current thread"
_FRAME = "  File "


class Signalled(Protocol):
    """A process; `psutil.Process` is one."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""


def stack_path(run_folder: Path, rank: int) -> Path:
    """Where a rank writes its stacks."""
    return run_folder / f"stack-{rank}.txt"


class Watchdog:
    """Watches the signs of life in a run folder.

    Args:
        plan: of the training.
        ranks: the living ranks of this machine; asked only when there was silence.
        clock: monotonic seconds.
        stack_seconds: how long to wait for stacks.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        ranks: Callable[[], Mapping[int, Signalled]],
        clock: Callable[[], float] = time.monotonic,
        stack_seconds: float = _STACK_SECONDS,
    ) -> None:
        self._plan = plan
        self._ranks = ranks
        self._clock = clock
        self._stack_seconds = stack_seconds
        self._looked_at = self._changed_at = clock()
        self._signs = self._look()

    def check(self) -> None:
        """Look for signs of life.

        Raises:
            HungTrainingError: there was none for `launch.hang_seconds`; says at which step each
                rank is, and in which call.
        """
        now = self._clock()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        signs = self._look()
        if signs != self._signs:
            self._signs, self._changed_at = signs, now
        elif now - self._changed_at > self._plan.config.launch.hang_seconds:
            raise self._hung(now - self._changed_at)

    def _look(self) -> tuple[object, ...]:
        events = self._plan.events_path
        size = events.stat().st_size if events.exists() else 0
        beats = read_heartbeats(self._plan.run_folder)
        return size, *((rank, beat.step, beat.at) for rank, beat in beats.items())

    def _hung(self, silence: float) -> HungTrainingError:
        launch = self._plan.config.launch
        ranks = self._ranks()
        beats = read_heartbeats(self._plan.run_folder)
        if not beats and launch.num_nodes > 1:
            return HungTrainingError(
                f"The {launch.num_nodes} nodes have not all met at {launch.address} for "
                f"{silence:.0f} s",
                hint="Start 'raftline join' on the other machines, check that they reach that "
                "address and port, or raise finetune.launch.hang_seconds.",
            )
        stacks = self._stacks(ranks)
        lines = []
        for rank in sorted(set(ranks) | set(beats)):
            place = f"after step {beats[rank].step}" if rank in beats else "before its first step"
            if rank not in ranks:
                lines.append(f"  rank {rank}: {place}, not running on this machine")
                continue
            lines.append(f"  rank {rank}: {place}, in")
            lines.extend(f"    {frame}" for frame in stacks.get(rank) or ["(it wrote no stack)"])
        return HungTrainingError(
            f"No rank gave a sign of life for {silence:.0f} s:\n" + "\n".join(lines),
            hint="The rank whose stack differs is the one that the others wait for. It goes on "
            "from its last checkpoint when started again; raise finetune.launch.hang_seconds if "
            "it was only slow.",
        )

    def _stacks(self, ranks: Mapping[int, Signalled]) -> dict[int, list[str]]:
        """Top frames of each rank, innermost first."""
        waiting = {}
        for rank, process in ranks.items():
            # A rank that has not got so far as to listen would be ended by the signal.
            path = stack_path(self._plan.run_folder, rank)
            if path.exists():
                process.send_signal(STACK_SIGNAL)
                waiting[rank] = path
        deadline = time.monotonic() + self._stack_seconds
        while time.monotonic() < deadline:
            time.sleep(_STACK_LOOK_SECONDS)  # also behind the last: a stack is written line by line
            if all(_CURRENT in path.read_text() for path in waiting.values()):
                break
        return {rank: top_frames(path.read_text()) for rank, path in waiting.items()}


def top_frames(stacks: str) -> list[str]:
    """The innermost calls of the thread that took the signal, from what `faulthandler` wrote.

    Example:
        `Current thread 0x1 (most recent call first):`, `  File "/a/b.py", line 3 in wait` gives
        `wait (b.py:3)`.
    """
    _, found, current = stacks.partition(_CURRENT)
    frames = []
    for line in current.splitlines()[1:] if found else []:
        if not line.startswith(_FRAME):
            break
        path, _, rest = line.removeprefix(_FRAME).partition(", line ")
        number, _, name = rest.partition(" in ")
        frames.append(f"{name} ({Path(path.strip(chr(34))).name}:{number})")
    return frames[:_TOP_FRAMES]
