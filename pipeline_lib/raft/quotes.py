"""Whether a quote is in the passages, word for word.

One function decides it everywhere: as a gate of synthesis, as a metric of evaluation, and beside
every answer that is served. Only white space is folded (runs of it count as one space): case,
punctuation and spelling must be the passage's own.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

QuoteStatus = Literal["verbatim", "misattributed", "stitched", "absent"]

MIN_PIECE_WORDS = 3
"""A stitched quote consists of pieces of at least so many words."""

_CACHED_PASSAGES = 4096
"""Quotes come in the order of their passages, so few need to be remembered: some 40 MB."""

_BETWEEN = "\n"
"""Joins folded texts, which have none: nothing is found across two of them."""

_ELLIPSIS = re.compile(r"\s*[\[(]?(?:\.\s?\.\s?\.|…)[\])]?\s*")
_WORD = re.compile(r"\S+")


class QuotablePassage(Protocol):
    """A passage that can be quoted: a row's, or one that retrieval found."""

    @property
    def chunk_id(self) -> str:
        """Names the passage."""

    @property
    def text(self) -> str:
        """What can be quoted."""


@dataclass(frozen=True)
class QuoteCheck:
    """What became of a quote."""

    status: QuoteStatus
    """`verbatim`: in the cited passage. `misattributed`: in another one, or none was cited.
    `stitched`: not in one piece, but cut from pieces that are verbatim. `absent`: none of these."""
    chunk_id: str | None = None
    """Where it is verbatim."""
    start: int | None = None
    """Offsets into that passage's text, code points, end exclusive."""
    end: int | None = None


_ABSENT = QuoteCheck("absent")
_STITCHED = QuoteCheck("stitched")


def fold(text: str) -> str:
    """Runs of white space as one space, none at the ends."""
    return " ".join(text.split())


def find_folded(needle: str, text: str) -> tuple[int, int] | None:
    r"""Offsets in `text` of the first occurrence of `needle`, both with white space folded.

    Example: "a b" is at (1, 5) of " a\n\nb". `None` for an empty needle.
    """
    wanted = fold(needle)
    return _folded(text).find(wanted) if wanted else None


def verify_quote(
    quote_text: str, cited: int | None, passages: Sequence[QuotablePassage]
) -> QuoteCheck:
    """Look a quote up.

    Args:
        quote_text: the quote, unescaped.
        cited: number of the cited passage, from 1, as the model sees it; `None` when it cited no
            passage there is.
        passages: in the model's order.
    """
    wanted = fold(quote_text)
    if not wanted:
        return _ABSENT
    if cited is not None and 1 <= cited <= len(passages):
        passage = passages[cited - 1]
        place = _folded(passage.text).find(wanted)
        if place is not None:
            return QuoteCheck("verbatim", passage.chunk_id, *place)
    for number, passage in enumerate(passages, start=1):
        place = None if number == cited else _folded(passage.text).find(wanted)
        if place is not None:
            return QuoteCheck("misattributed", passage.chunk_id, *place)
    text = _BETWEEN.join(_folded(passage.text).text for passage in passages)
    return _STITCHED if _is_stitched(wanted, text) else _ABSENT


def _is_stitched(wanted: str, text: str) -> bool:
    """Whether `wanted` falls into verbatim pieces, between words or at its ellipses."""
    if _splits_into_pieces(wanted.split(), text):
        return True
    parts = _ELLIPSIS.split(wanted)
    if len(parts) == 1:
        return False
    pieces = [words for part in parts if (words := part.split())]
    return bool(pieces) and all(_splits_into_pieces(words, text) for words in pieces)


def _splits_into_pieces(words: Sequence[str], text: str) -> bool:
    """Whether `words` are a sequence of verbatim runs of at least `MIN_PIECE_WORDS` words."""
    reachable = [True] + [False] * len(words)
    end = 0
    for start in range(len(words)):
        if reachable[start]:
            end = _run_end(words, start, end, text)
            for cut in range(start + MIN_PIECE_WORDS, end + 1):
                reachable[cut] = True
    return reachable[-1]


def _run_end(words: Sequence[str], start: int, known_end: int, text: str) -> int:
    """Where the longest verbatim run from `start` on ends; `known_end` where it is too short.

    Args:
        words: of the quote.
        start: the run's first word.
        known_end: where the run of an earlier start ends: what is left of that one is a run.
        text: to look in.
    """

    def is_verbatim(end: int) -> bool:
        return " ".join(words[start:end]) in text

    low, high = max(start + MIN_PIECE_WORDS, known_end), len(words)
    if low > known_end and (low > high or not is_verbatim(low)):
        return known_end
    if low == high or not is_verbatim(low + 1):
        return low
    low += 1
    while low < high:  # by bisection: a run's beginning is a run
        middle = (low + high + 1) // 2
        if is_verbatim(middle):
            low = middle
        else:
            high = middle - 1
    return low


class _Folded:
    """A text with its white space folded, and where its words begin."""

    __slots__ = ("_folded_starts", "_starts", "_unfolded", "text")

    def __init__(self, text: str) -> None:
        self.text = fold(text)
        self._unfolded = text
        self._starts: list[int] = []
        self._folded_starts: list[int] = []

    def find(self, wanted: str) -> tuple[int, int] | None:
        """Offsets in the unfolded text of the first occurrence of a folded one, not empty."""
        place = self.text.find(wanted)
        if place < 0:
            return None
        if self.text == self._unfolded:
            return place, place + len(wanted)
        if not self._starts:
            self._note_starts()
        return self._original(place), self._original(place + len(wanted) - 1) + 1

    def _original(self, offset: int) -> int:
        """The unfolded offset of a character, not a space."""
        word = bisect_right(self._folded_starts, offset) - 1
        return self._starts[word] + offset - self._folded_starts[word]

    def _note_starts(self) -> None:
        """Put off until something is found; most passages of a context are only searched."""
        offset = 0
        for match in _WORD.finditer(self._unfolded):
            self._folded_starts.append(offset)
            self._starts.append(match.start())
            offset += match.end() - match.start() + 1


_folded = lru_cache(maxsize=_CACHED_PASSAGES)(_Folded)
