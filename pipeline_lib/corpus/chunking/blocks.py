"""Boundaries between the blocks of a document, and inside its tables and code.

Blocks are recognised by their own marks, whatever the media type: blank lines, list items, table
rows (`|`), code fences. Only headings and places are taken from the document's outline, because a
`#` may as well be a comment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline_lib.corpus.chunking import boundaries as at
from pipeline_lib.corpus.chunking.boundaries import Boundaries
from pipeline_lib.corpus.outline import ADORNMENT, HEADING
from pipeline_lib.corpus.schema import Section

OUTER_PLACES = frozenset({"slide", "sheet", "part"})
"""Places that stand for themselves; a page or a notebook's cell may end in mid-thought."""

_LINE = re.compile(
    r"(?P<indent>[ \t]*+)(?:(?P<fence>`{3,}|~{3,})|(?P<row>\|)"
    r"|(?P<item>(?:[-*+•‣▪◦–]|(?P<number>\d{1,9})[.)])[ \t])|(?P<text>[^\n]))?[^\n]*+(?:\n|\Z)"  # noqa: RUF001
)
_SEPARATOR_ROW = re.compile(r"[ \t]*\|[ \t:|-]*-[ \t:|-]*\n?")
_SETEXT_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_MAX_DEPTH = 4
_WHOLE_TEXT = "whole text"
"""Stands for a fence that nothing closes."""


def block_boundaries(text: str, sections: Sequence[Section], *, is_code: bool) -> Boundaries:
    """Boundaries before headings, places, blocks, list items, table rows and lines of code.

    Args:
        text: of the document.
        sections: of the document, by start.
        is_code: the whole text is source code, as if it stood between fences.
    """
    return _Scanner(text, sections, is_code=is_code).scan()


class _Scanner:
    """Reads lines in order; remembers what those before mean for the next boundary."""

    def __init__(self, text: str, sections: Sequence[Section], *, is_code: bool) -> None:
        self._text = text
        self._headings = {s.start for s in sections if s.kind == HEADING}
        self._levels = {s.start: s.level for s in sections if s.kind == HEADING} | {
            s.start: 0 for s in sections if s.kind in OUTER_PLACES
        }
        self._fence = _WHOLE_TEXT if is_code else ""
        self._is_first_in_fence = False
        self._heading_end = 0
        self._below_heading = False
        self._after_blank = True
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Forget the blocks before: a section begins."""
        self._indents = [0]
        self._kind = ""
        self._in_list = False
        self._after_colon = False
        self._after_separator = False

    def scan(self) -> Boundaries:
        """The boundaries of the whole text."""
        found = Boundaries()
        for line in _LINE.finditer(self._text):
            if line.lastgroup == "indent":
                self._after_blank = True
                continue
            strength = self._read(line)
            if strength and line.start():
                found.add(line.start(), strength)
            self._after_blank = False
        return found

    def _read(self, line: re.Match[str]) -> int:
        """The strength of the boundary before `line`, which is not blank; 0: none."""
        level = self._levels.get(line.start())
        if level is not None:
            return self._section(line, level)
        if line.start() < self._heading_end:
            return 0
        if self._fence:
            return self._code(line)
        return self._block(line)

    def _section(self, line: re.Match[str], level: int) -> int:
        strength = at.INSEPARABLE if self._below_heading else at.SECTION - level
        if self._fence and self._fence != _WHOLE_TEXT:
            self._fence = ""  # it was never closed
        self._start_afresh()
        self._below_heading = line.start() in self._headings
        if self._below_heading:
            self._heading_end = self._end_of_heading(line)
        else:
            self._block(line)
        return strength

    def _end_of_heading(self, line: re.Match[str]) -> int:
        first, second, third = [
            *self._text[line.start() : line.end() + 1_000].split("\n", 3),
            *("", "", ""),
        ][:3]
        is_overlined = bool(ADORNMENT.fullmatch(first.rstrip())) and first == third
        is_underlined = ADORNMENT.fullmatch(second) or _SETEXT_UNDERLINE.fullmatch(second)
        if is_overlined:
            return line.end() + len(second) + len(third) + 2
        return line.end() + len(second) + 1 if is_underlined else line.end()

    def _code(self, line: re.Match[str]) -> int:
        is_first, self._is_first_in_fence = self._is_first_in_fence, False
        is_closing = bool(line["fence"]) and line["fence"].startswith(self._fence)
        if is_closing:
            self._fence = ""
        if is_first or is_closing:
            return at.INSEPARABLE
        if self._after_blank:
            return at.CODE_PARAGRAPH if line["indent"] else at.CODE_TOP_LEVEL
        return at.ROW

    def _block(self, line: re.Match[str]) -> int:
        kind = str(line.lastgroup)
        strength = self._strength(line, kind)
        if kind == "fence":
            self._fence = line["fence"]
            self._is_first_in_fence = True
        self._in_list = kind == "item" or (self._in_list and len(self._indents) > 1)
        self._after_separator = kind == "row" and bool(_SEPARATOR_ROW.fullmatch(line[0]))
        self._after_colon = line[0].rstrip().endswith((":", "："))  # noqa: RUF001
        self._below_heading = False
        self._kind = kind
        return strength

    def _strength(self, line: re.Match[str], kind: str) -> int:
        was_below_heading = self._below_heading
        if kind == "row" and self._kind == "row" and not self._after_blank:
            is_header = self._after_separator or _SEPARATOR_ROW.fullmatch(line[0])
            return at.INSEPARABLE if is_header else at.ROW
        strength = self._before_block(line, kind)
        if not strength or not was_below_heading:
            return strength
        return at.HEADING_TO_BLOCK if kind in ("row", "fence") else at.INSEPARABLE

    def _before_block(self, line: re.Match[str], kind: str) -> int:
        starts_item = kind == "item" and (self._in_list or line["number"] in (None, "1"))
        if self._after_blank or starts_item:
            base = at.ITEM if kind == "item" else at.PARAGRAPH
            strength = base - at.DEPTH * self._depth(line)
            is_announced = self._after_colon and not (kind == self._kind == "item")
            return min(strength, at.ANNOUNCED) if is_announced else strength
        is_change = kind != self._kind and {kind, self._kind} & {"row", "fence"}
        return at.ANNOUNCED if is_change else 0

    def _depth(self, line: re.Match[str]) -> int:
        """How many smaller indents enclose the block that begins with `line`."""
        indent = len(line["indent"].expandtabs(4))
        while self._indents[-1] > indent:
            self._indents.pop()
        if self._indents[-1] < indent:
            self._indents.append(indent)
        return min(len(self._indents) - 1, _MAX_DEPTH)
