"""Finding typed values in text and putting their kind in their place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


def _always(_: re.Match[str]) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Detector:
    """One way to recognise values of a kind."""

    kind: str
    """Counted under this name, replaced by it in capitals and brackets: `email`, `[EMAIL]`."""
    pattern: re.Pattern[str]
    """Its group `value`, or else the whole match, is the value."""
    hints: tuple[str, ...] = ()
    """A text without any of these cannot match, and the pattern is not tried."""
    is_valid: Callable[[re.Match[str]], bool] = _always
    """Judges a match by checksum, range or surroundings."""

    def matches(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each value, in order."""
        if self.hints and not any(hint in text for hint in self.hints):
            return
        group = "value" if "value" in self.pattern.groupindex else 0
        for match in self.pattern.finditer(text):
            if self.is_valid(match):
                yield match.span(group)


def redact_with(detectors: Sequence[Detector], text: str) -> tuple[str, Counter[str]]:
    """The text with values replaced by their kinds, and how many of each there were.

    Detectors work in turn, each on what those before it left: what is a card number is no longer
    a phone number.
    """
    found: Counter[str] = Counter()
    for detector in detectors:
        spans = list(detector.matches(text))
        if not spans:
            continue
        found[detector.kind] += len(spans)
        parts, position = [], 0
        for start, end in spans:
            parts += [text[position:start], f"[{detector.kind.upper()}]"]
            position = end
        text = "".join([*parts, text[position:]])
    return text, found
