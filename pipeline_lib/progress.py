"""How long work reports where it stands, without knowing who listens.

The library calls `Progress`; a terminal shows bars, a Prefect task updates a progress artifact,
tests record the calls. Implementations must be cheap and must never raise into the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the state of one running stage."""

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        """Begin a phase of `total` units (`None`: unknown); ends any phase before it."""

    def advance(self, count: int = 1) -> None:
        """`count` more units of the current phase are done."""

    def note(self, text: str) -> None:
        """Show one line about the current phase (for example the latest loss)."""

    def finish(self) -> None:
        """The current phase has ended."""


class NullProgress:
    """Listens to nothing."""

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        """Ignore."""

    def advance(self, count: int = 1) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

    def finish(self) -> None:
        """Ignore."""


@contextmanager
def phase(
    progress: Progress, description: str, total: int | None, unit: str = "items"
) -> Iterator[Progress]:
    """Run a block as one phase: starts it, and finishes it also when the block raises."""
    progress.start(description, total, unit)
    try:
        yield progress
    finally:
        progress.finish()
