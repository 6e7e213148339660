"""Progress of a task where people look for it: in the Prefect UI, in the run's log, in a terminal.

The library reports every unit of work; a server must not hear every one of them. `PrefectProgress`
keeps the state, and a thread of its own sends the newest state at most every
`UPDATE_INTERVAL_SECONDS`: a slow or unreachable server costs the work nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from logging import Logger, LoggerAdapter
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import PrefectException

from pipeline_lib.progress import Progress

UPDATE_INTERVAL_SECONDS = 2.0
NOTE_INTERVAL_SECONDS = 30.0
NOTE_INTERVAL_SHARE = 0.05
"""Of how long a phase has taken so far: a day's training is some hundred lines, not thousands."""
_LISTED_PHASES = 10
_FAREWELL_SECONDS = 5.0

Send = Callable[[float, str], None]
"""Takes per cent (0 to 100) and a Markdown description."""
RunLogger = Logger | LoggerAdapter[Any]

_listener: ContextVar[Progress | None] = ContextVar("raftline_progress_listener", default=None)


@contextmanager
def use_progress(progress: Progress) -> Iterator[None]:
    """Let `progress` follow every task that this block runs in this process, beside the UI.

    How a terminal shows bars for a flow that it runs itself. Runs that a worker executes are in
    another process and not followed.
    """
    token = _listener.set(progress)
    try:
        yield
    finally:
        _listener.reset(token)


def current_listener() -> Progress | None:
    """What `use_progress` was last given."""
    return _listener.get()


class Fanout:
    """Passes every call on to several receivers, in order."""

    def __init__(self, *receivers: Progress) -> None:
        self._receivers = receivers

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        """See `Progress.start`."""
        for receiver in self._receivers:
            receiver.start(description, total, unit)

    def advance(self, count: int = 1) -> None:
        """See `Progress.advance`."""
        for receiver in self._receivers:
            receiver.advance(count)

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        for receiver in self._receivers:
            receiver.note(text)

    def finish(self) -> None:
        """See `Progress.finish`."""
        for receiver in self._receivers:
            receiver.finish()


@dataclass
class _Phase:
    description: str
    total: int | None
    unit: str
    started: float
    done: int = 0
    note: str = ""

    @property
    def percent(self) -> float:
        return min(100.0, 100 * self.done / self.total) if self.total else 0.0

    def title(self) -> str:
        amount = "" if self.total is None else f": {self.total:,} {self.unit}"
        return self.description + amount

    def standing(self, now: float) -> str:
        """One line: how far, how long still, the latest note."""
        amount = f"{self.done:,}" + (f" of {self.total:,}" if self.total is not None else "")
        parts = [f"{self.description}: {amount} {self.unit}"]
        elapsed = now - self.started
        if self.total and 0 < self.done < self.total:
            left = elapsed / self.done * (self.total - self.done)
            parts.append(f"about {format_seconds(left)} left")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def outcome(self, now: float) -> str:
        line = f"{self.description}: {self.done:,} {self.unit} in "
        line += format_seconds(now - self.started)
        return f"{line}, {self.note}" if self.note else line


@dataclass
class _State:
    phase: _Phase | None = None
    finished: deque[str] = field(default_factory=lambda: deque(maxlen=_LISTED_PHASES))
    last_note: float = float("-inf")


class PrefectProgress:
    """Shows one task run's progress as a progress artifact and as lines in its log.

    Use it as a context manager: the last state is sent when the block ends, waiting at most
    `_FAREWELL_SECONDS` for a server that does not answer.

    Args:
        send: delivers a state; called from a thread of its own. When it fails, one warning is
            logged and later states are still tried.
        logger: receives a line per phase, and notes at most every `NOTE_INTERVAL_SECONDS`; less
            often the longer a phase has taken (`NOTE_INTERVAL_SHARE`).
        interval_seconds: least time between two deliveries.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        send: Send,
        logger: RunLogger,
        *,
        interval_seconds: float = UPDATE_INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._state = _State()
        self._lock = threading.Lock()
        self._courier = _Courier(send, logger, interval_seconds)

    @classmethod
    def for_task_run(cls, task_run_id: UUID, flow_run_id: UUID | None, logger: RunLogger) -> Self:
        """Progress of one task run, as an artifact of it and of its flow run."""
        return cls(_ProgressArtifact(task_run_id, flow_run_id), logger)

    def __enter__(self) -> Self:
        self._courier.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish()
        self._courier.close(_FAREWELL_SECONDS)

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        """Begin a phase; ends the one before it."""
        self.finish()
        with self._lock:
            phase = _Phase(description, total, unit, self._clock())
            self._state.phase = phase
            self._post()
        self._logger.info("%s", phase.title())

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        with self._lock:
            if self._state.phase is not None:
                self._state.phase.done += count
                self._post()

    def note(self, text: str) -> None:
        """Show one line about the current phase."""
        with self._lock:
            phase = self._state.phase
            if phase is None:
                return
            phase.note = text
            now = self._clock()
            interval = max(NOTE_INTERVAL_SECONDS, NOTE_INTERVAL_SHARE * (now - phase.started))
            is_due = now - self._state.last_note >= interval
            if is_due:
                self._state.last_note = now
            standing = phase.standing(now)
            self._post()
        if is_due:
            self._logger.info("%s", standing)

    def finish(self) -> None:
        """End the current phase, if there is one."""
        with self._lock:
            phase = self._state.phase
            if phase is None:
                return
            outcome = phase.outcome(self._clock())
            self._state.finished.append(outcome)
            self._state.phase = None
            self._post()
        self._logger.info("%s", outcome)

    def _post(self) -> None:
        phase, now = self._state.phase, self._clock()
        # The newest first: the UI's list of artifacts shows the first line alone.
        lines = [f"- {line}" for line in reversed(self._state.finished)]
        if phase is not None:
            lines.insert(0, f"- **{phase.standing(now)}**")
        # Between two phases the bar stands full rather than jumping back to zero.
        self._courier.post(phase.percent if phase is not None else 100.0, "\n".join(lines))


class _Courier(threading.Thread):
    """Delivers the newest state, never two deliveries closer than the interval."""

    def __init__(self, send: Send, logger: RunLogger, interval_seconds: float) -> None:
        super().__init__(name="raftline-progress", daemon=True)
        self._send = send
        self._logger = logger
        self._interval_seconds = interval_seconds
        self._latest: tuple[float, str] | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._has_warned = False
        # Prefect finds the API's address in the caller's context, which threads do not inherit.
        self._context = copy_context()

    def post(self, percent: float, description: str) -> None:
        with self._lock:
            self._latest = (percent, description)
        self._wake.set()

    def close(self, patience_seconds: float) -> None:
        self._closing.set()
        self._wake.set()
        self.join(patience_seconds)

    def run(self) -> None:
        self._context.run(self._deliver)

    def _deliver(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                latest, self._latest = self._latest, None
            if latest is not None:
                self._try_to_send(*latest)
            elif self._closing.is_set():
                return
            if self._closing.is_set():
                self._wake.set()
            else:
                self._closing.wait(self._interval_seconds)

    def _try_to_send(self, percent: float, description: str) -> None:
        try:
            self._send(percent, description)
        except (httpx.HTTPError, PrefectException, OSError) as error:
            if not self._has_warned:
                self._logger.warning("Progress cannot be shown in the UI: %s", error)
                self._has_warned = True


class _ProgressArtifact:
    """Sends states as one progress artifact, created with the first of them."""

    def __init__(self, task_run_id: UUID, flow_run_id: UUID | None) -> None:
        self._task_run_id = task_run_id
        self._flow_run_id = flow_run_id
        self._client: SyncPrefectClient | None = None
        self._artifact_id: UUID | None = None

    def __call__(self, percent: float, description: str) -> None:
        if self._client is None:
            self._client = get_client(sync_client=True)
        if self._artifact_id is None:
            artifact = ArtifactCreate(
                type="progress",
                description=description,
                data=percent,
                task_run_id=self._task_run_id,
                flow_run_id=self._flow_run_id,
            )
            self._artifact_id = self._client.create_artifact(artifact).id
        else:
            update = ArtifactUpdate(data=percent, description=description)
            self._client.update_artifact(self._artifact_id, update)


def format_seconds(seconds: float) -> str:
    """A duration for people: `0.4 s`, `42 s`, `3 min`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
