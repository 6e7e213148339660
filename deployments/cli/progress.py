"""Progress in a terminal: a bar with counts and time left, or plain lines where there is none.

A finished phase leaves one line behind, so that a log and a terminal tell the same story.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichBar

from deployments.cli.console import duration

LINE_EVERY_SECONDS = 10.0
"""Between two plain lines of one phase."""
_MIN_RATE_SECONDS = 2.0
_MIN_RATE_TOTAL = 10
"""Before that much time, or of fewer units, time left would be a guess."""


@dataclass
class _Phase:
    description: str
    total: int | None
    unit: str
    started: float
    said: float
    completed: int = 0
    note: str = ""
    task: TaskID | None = None

    @property
    def counts(self) -> str:
        of_total = "" if self.total is None else f"/{self.total:,}"
        return f"{self.completed:,}{of_total} {self.unit}"

    def time_left(self, seconds: float) -> str:
        if self.total is None or not 0 < self.completed < self.total:
            return ""
        if self.total < _MIN_RATE_TOTAL or seconds < _MIN_RATE_SECONDS:
            return ""
        left = seconds / self.completed * (self.total - self.completed)
        return f"about {duration(left)} left"


class RichProgress:
    """Shows one phase at a time; safe to call from several threads.

    Args:
        console: where to draw; lines instead of a bar when it is not a terminal.
        is_transient: leave no line behind, and draw nothing where there is no terminal.
        clock: seconds, never going backwards.
    """

    def __init__(
        self,
        console: Console,
        *,
        is_transient: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._is_transient = is_transient
        self._clock = clock
        self._lock = threading.RLock()
        self._phase: _Phase | None = None
        self._bar: RichBar | None = None

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        """Begin a phase of `total` units (`None`: unknown); ends any phase before it."""
        with self._lock:
            self.finish()
            now = self._clock()
            self._phase = _Phase(description, total, unit, started=now, said=now)
            if self._console.is_terminal:
                self._bar = _new_bar(self._console)
                self._phase.task = self._bar.add_task(
                    escape(description), total=total, counts=self._phase.counts, left="", note=""
                )
                self._bar.start()
            else:
                of_total = "" if total is None else f" {total:,} {unit}"
                self._line(f"{description}:{of_total} …")

    def advance(self, count: int = 1) -> None:
        """`count` more units of the current phase are done."""
        with self._lock:
            if self._phase is not None:
                self._phase.completed += count
                self._show(self._phase)

    def note(self, text: str) -> None:
        """Show one line about the current phase."""
        with self._lock:
            if self._phase is not None:
                self._phase.note = text
                self._show(self._phase)

    def finish(self) -> None:
        """The current phase has ended; leaves its line behind."""
        with self._lock:
            phase, self._phase = self._phase, None
            bar, self._bar = self._bar, None
            if bar is not None:
                bar.stop()
            if phase is not None and not self._is_transient:
                seconds = self._clock() - phase.started
                self._console.print(f"{_outcome(phase)} in {duration(seconds)}")

    def _show(self, phase: _Phase) -> None:
        now = self._clock()
        left = phase.time_left(now - phase.started)
        if self._bar is not None and phase.task is not None:
            self._bar.update(
                phase.task,
                completed=phase.completed,
                counts=phase.counts,
                left=left,
                note=phase.note,
            )
        elif now - phase.said >= LINE_EVERY_SECONDS:
            phase.said = now
            parts = [phase.counts, duration(now - phase.started), left, phase.note]
            self._line(f"{phase.description}: " + ", ".join(part for part in parts if part))

    def _line(self, text: str) -> None:
        if not self._is_transient:
            self._console.print(f"  {escape(text)}")


def _outcome(phase: _Phase) -> str:
    """Whether a phase reached its total, and what it counted, with markup."""
    is_whole = phase.total is None or phase.completed >= phase.total
    counts = f"{phase.completed:,} {phase.unit}" if is_whole else phase.counts
    symbol = "[green]✓[/green]" if is_whole else "[yellow]·[/yellow]"
    has_counted = phase.total is not None or phase.completed > 0
    return f"{symbol} {escape(phase.description)}" + (f": {escape(counts)}" if has_counted else "")


def _new_bar(console: Console) -> RichBar:
    return RichBar(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[counts]}", style="cyan"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=console,
        transient=True,
    )
