"""Progress, written down."""

from __future__ import annotations


class Recorder:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        self.calls.append(("start", description, total, unit))

    def advance(self, count: int = 1) -> None:
        self.calls.append(("advance", count))

    def note(self, text: str) -> None:
        self.calls.append(("note", text))

    def finish(self) -> None:
        self.calls.append(("finish",))
