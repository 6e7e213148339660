r"""How many tokens lie between two places of a text, from the tokens of its words.

A text is taken apart into *tiles*: a word, or a punctuation mark, with the white space before it.
Each distinct tile is tokenised once and remembered across documents, so a text costs little more
than looking its words up. For tokenizers that never join words (all of BERT's kind) the sums are
exact; for others they are an estimate that is off by a few tokens a chunk, which is why the
chunker counts each finished chunk again.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
)
_TILE = re.compile(rf"\s*+(?:[{_UNSPACED}]{{1,8}}|[^\W{_UNSPACED}]{{1,32}}|\S)|\s+")
"""Scripts without spaces go by eight characters: whole lines of them would never come again."""
_WINDOW_CHARS = 1 << 17
"""Text taken apart at once; bounds the memory that the tiles of a long text need."""
_MAX_REMEMBERED = 400_000
"""Distinct tiles; a large English corpus has fewer, a corpus of identifiers more."""


class MeasuredText:
    """The tokens of one text up to any of its positions. Made by `TokenMeasure`."""

    def __init__(self, length: int, ends: array[int], totals: array[int]) -> None:
        self._length = length
        self._ends = ends
        """Where each tile ends."""
        self._totals = totals
        """Tokens before each tile, then those of all."""

    def tokens(self, start: int, end: int) -> int:
        """Tokens between two positions; a word counts as a whole where it ends."""
        ends, totals = self._ends, self._totals
        return totals[bisect_right(ends, end)] - totals[bisect_right(ends, start)]

    def reach(self, start: int, num_tokens: int) -> int:
        """The largest `end` with `tokens(start, end) <= num_tokens`."""
        first = bisect_right(self._ends, start)
        last = bisect_right(self._totals, self._totals[first] + num_tokens, lo=first) - 1
        return self._ends[last] - 1 if last < len(self._ends) else self._length

    def reach_back(self, end: int, num_tokens: int) -> int:
        """The end of a tile, or 0, from which on there are at most `num_tokens` up to `end`."""
        most = self._totals[bisect_right(self._ends, end)]
        first = bisect_left(self._totals, most - num_tokens)
        return self._ends[first - 1] if first else 0

    def tile_ends(self, start: int, end: int) -> Sequence[int]:
        """The ends of tiles that lie strictly inside."""
        return self._ends[bisect_right(self._ends, start) : bisect_left(self._ends, end)]


class TokenMeasure:
    """Counts tokens; remembers those of words it has seen."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens_of_tile: dict[str, int] = {}

    def count(self, texts: Sequence[str]) -> list[int]:
        """Exact number of tokens of each text, special tokens excluded."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    def measure(self, text: str) -> MeasuredText:
        """Take `text` apart and sum up its tiles."""
        ends, totals = array("q"), array("q", [0])
        for start, tiles in _windows(text):
            known = self._known(tiles)
            ends.extend(accumulate(map(len, tiles[1:]), initial=start + len(tiles[0])))
            counts = map(known.__getitem__, tiles)
            totals.extend(list(accumulate(counts, initial=totals[-1]))[1:])
        return MeasuredText(len(text), ends, totals)

    def _known(self, tiles: Sequence[str]) -> dict[str, int]:
        known = self._tokens_of_tile
        if len(known) > _MAX_REMEMBERED:
            known.clear()
        if unseen := sorted({tile for tile in tiles if tile not in known}):
            known.update(zip(unseen, self.count(unseen), strict=True))
        return known


def _windows(text: str) -> Iterator[tuple[int, list[str]]]:
    """The tiles of the text, a stretch at a time, with the stretch's start."""
    for start in range(0, len(text), _WINDOW_CHARS):
        yield start, _TILE.findall(text, start, start + _WINDOW_CHARS)
