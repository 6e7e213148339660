"""Where text may be cut, how good a place each is, and the places inside prose.

A boundary lies where the next block, line, sentence or word begins. One is used only where no
stronger one serves.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

SECTION = 90
"""A heading of level n has 90 - n. Slides, sheets and parts stand for themselves and have 90."""
PARAGRAPH = 60
ITEM = 58
DEPTH = 4
"""How much weaker boundaries are one level deeper in nested lists or indented text."""
ANNOUNCED = 40
"""After a line that ends in a colon; where prose turns into a table or code without blank line."""
HEADING_TO_BLOCK = 38
"""Between a heading and the table or code block right below it."""
CODE_TOP_LEVEL = 36
"""In code: an unindented line after a blank line."""
CODE_PARAGRAPH = 33
ROW = 30
"""Between rows of a table, lines of code."""
_SENTENCE_AND_LINE = 24
_SENTENCE = 20
_LINE = 18
_CLAUSE = 10
_WORD = 5
INSEPARABLE = 3
"""A heading and its text, a table's header and its first row, a fence and its first line. Weaker
than a sentence's end: a heading does not stay behind alone."""

_SENTENCE_END = re.compile(
    r"(?<![.!?…؟۔।])[.!?…؟۔।]++[\"'”’»)\]*_`]*+\s++"  # noqa: RUF001
    r"|(?<![。！？｡])[。！？｡]++[」』）”’]*+\s*+"  # noqa: RUF001
)
_CLAUSE_END = re.compile(r"[,;:|،؛](?=[ \t])|[、，；：]")  # noqa: RUF001
_GAP = re.compile(r"\s++")


@dataclass(frozen=True)
class Boundaries:
    """Positions in ascending order and the strength of each."""

    positions: list[int] = field(default_factory=list)
    strengths: list[int] = field(default_factory=list)

    def add(self, position: int, strength: int) -> None:
        """Append a boundary; positions ascend."""
        self.positions.append(position)
        self.strengths.append(strength)

    def strongest(self, start: int, end: int) -> tuple[int, list[int]]:
        """The highest strength strictly inside, and the positions that have it."""
        first = bisect_right(self.positions, start)
        last = bisect_left(self.positions, end)
        if first >= last:
            return 0, []
        best = max(self.strengths[first:last])
        inside = zip(self.positions[first:last], self.strengths[first:last], strict=True)
        return best, [position for position, strength in inside if strength == best]


def prose_boundaries(text: str, start: int, end: int) -> Boundaries:
    """Ends of sentences, lines and clauses strictly inside `text[start:end]`."""
    strengths = {match.end(): _CLAUSE for match in _CLAUSE_END.finditer(text, start, end)}
    newline = text.find("\n", start, end)
    while newline >= 0:
        strengths[newline + 1] = _LINE
        newline = text.find("\n", newline + 1, end)
    for match in _SENTENCE_END.finditer(text, start, end):
        if not text[match.end() : match.end() + 1].islower():  # an abbreviation, more likely
            is_line_end = "\n" in match[0]
            strengths[match.end()] = _SENTENCE_AND_LINE if is_line_end else _SENTENCE
    positions = sorted(position for position in strengths if start < position < end)
    return Boundaries(positions, [strengths[position] for position in positions])


def word_boundaries(text: str, start: int, end: int) -> Boundaries:
    """Starts of words strictly inside `text[start:end]`."""
    positions = [match.end() for match in _GAP.finditer(text, start, end)]
    positions = [position for position in positions if start < position < end]
    return Boundaries(positions, [_WORD] * len(positions))
