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


def fold(text: str) -> str:
    """Runs of white space as one space, none at the ends."""
    return " ".join(text.split())


def find_folded(needle: str, text: str) -> tuple[int, int] | None:
    r"""Offsets in `text` of the first occurrence of `needle`, both with white space folded.

    Example: "a b" is at (1, 5) of " a\n\nb". `None` for an empty needle.
    """
    wanted = fold(needle)
    place = fold(text).find(wanted)
    if not wanted or place < 0:
        return None
    return _original(text, place), _original(text, place + len(wanted) - 1) + 1


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
        return QuoteCheck("absent")
    numbers = list(range(1, len(passages) + 1))
    if cited in numbers:
        numbers.remove(cited)
        numbers.insert(0, cited)
    for number in numbers:
        passage = passages[number - 1]
        place = find_folded(wanted, passage.text)
        if place is not None:
            status: QuoteStatus = "verbatim" if number == cited else "misattributed"
            return QuoteCheck(status, passage.chunk_id, *place)
    texts = [fold(passage.text) for passage in passages]
    return QuoteCheck("stitched" if _is_stitched(wanted, texts) else "absent")


def _is_stitched(wanted: str, texts: Sequence[str]) -> bool:
    """Whether `wanted` falls into verbatim pieces, between words or at its ellipses."""
    if _splits_into_pieces(wanted.split(), texts):
        return True
    pieces = [words for piece in _ELLIPSIS.split(wanted) if (words := piece.split())]
    return bool(pieces) and all(_splits_into_pieces(words, texts) for words in pieces)


def _splits_into_pieces(words: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether `words` are a sequence of verbatim runs of at least `MIN_PIECE_WORDS` words."""
    reachable = [True] + [False] * len(words)
    for start in range(len(words)):
        if reachable[start]:
            longest = _longest_run(words, start, texts)
            for length in range(MIN_PIECE_WORDS, longest + 1):
                reachable[start + length] = True
    return reachable[-1]


def _longest_run(words: Sequence[str], start: int, texts: Sequence[str]) -> int:
    """How many words from `start` on are verbatim in one of `texts`; found by bisection."""
    low, high = 0, len(words) - start
    while low < high:
        middle = (low + high + 1) // 2
        run = " ".join(words[start : start + middle])
        if any(run in text for text in texts):
            low = middle
        else:
            high = middle - 1
    return low


def _original(text: str, folded_offset: int) -> int:
    """The offset in `text` of a character (not a space) of its folded form."""
    folded_starts, starts = _word_starts(text)
    word = bisect_right(folded_starts, folded_offset) - 1
    return starts[word] + folded_offset - folded_starts[word]


@lru_cache(maxsize=512)
def _word_starts(text: str) -> tuple[list[int], list[int]]:
    """Where each word begins: in the folded text, and in `text`."""
    folded_starts, starts, folded_offset = [], [], 0
    for match in _WORD.finditer(text):
        folded_starts.append(folded_offset)
        starts.append(match.start())
        folded_offset += len(match.group()) + 1
    return folded_starts, starts
