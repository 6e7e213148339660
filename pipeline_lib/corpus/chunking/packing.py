"""Cuts a stretch of text into pieces of at most so many tokens.

First the stretch is taken apart into *atoms*: at its strongest boundaries, then whatever does not
fit at weaker ones, down to single characters. So a block that fits is never cut. Then atoms are
packed in order. A piece may end at any boundary that leaves it between half full and full; the
strongest is taken, and of equals the one with the largest hash of the text around it. Taking the
last one instead would fill pieces better, but then an edit would move every cut behind it. Cuts
chosen by what the text says fall back into step a few pieces behind an edit.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline_lib.corpus.chunking.boundaries import (
    Boundaries,
    prose_boundaries,
    word_boundaries,
)
from pipeline_lib.corpus.chunking.measure import MeasuredText

MAX_CHARS_PER_TOKEN = 16
"""A chunk is at most this times the limit in tokens long, in characters. WordPiece reads a word of
more than 100 characters as one `[UNK]`, so a token limit alone would let a megabyte of base64 pass
as one chunk. English prose has 4 to 5 characters per token."""

_LEAST_FILL = 0.5
_HASHED_CHARS = 32
"""On each side of a boundary: an edit further away does not change its hash."""
_CHARACTER = 1
_JOINED = re.compile("[\u0300-\u036f\u200d\ufe00-\ufe0f\u20d0-\u20ff\U0001f3fb-\U0001f3ff]")
"""Combining marks, joiners, variation selectors, skin tones: kept with what they modify."""


@dataclass(frozen=True, slots=True)
class _Atom:
    start: int
    strength: int
    """Of the boundary at its start."""


class Packer:
    """Packs stretches of one text.

    Args:
        text: of the document.
        measured: its tokens.
        blocks: boundaries of its blocks.
    """

    def __init__(self, text: str, measured: MeasuredText, blocks: Boundaries) -> None:
        self._text = text
        self._measured = measured
        self._blocks = blocks

    def fits(self, start: int, end: int, limit: int) -> bool:
        """Whether `text[start:end]` fits one piece, as far as the measure knows."""
        is_short = end - start <= limit * MAX_CHARS_PER_TOKEN
        return is_short and self._measured.tokens(start, end) <= limit

    def pack(self, start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
        """Pieces of `text[start:end]` as (start, end), without a gap; by the measure they fit.

        A single character is not cut, whatever it measures.
        """
        if self.fits(start, end, limit):
            yield start, end
            return
        atoms = list(self._atoms(start, end, 0, limit, self._blocks, _FINER))
        starts = [atom.start for atom in atoms]
        first = 0
        while not self.fits(starts[first], end, limit) and first + 1 < len(atoms):
            cut = self._cut(atoms, starts, first, end, limit)
            yield starts[first], starts[cut]
            first = cut
        yield starts[first], end

    def middle(self, start: int, end: int) -> int:
        """The best place to cut a piece of two characters or more near its middle.

        Of the strongest boundaries in its middle half the one nearest the middle.
        """
        quarter = (end - start) // 4
        centre = (start + end) // 2
        left, right = start + quarter, end - quarter
        _, positions = self._blocks.strongest(left, right)
        for find in _FINER:
            if positions:
                break
            _, positions = find(self, left, right).strongest(left, right)
        return min(positions, key=lambda position: abs(position - centre), default=centre)

    def _cut(
        self, atoms: Sequence[_Atom], starts: Sequence[int], first: int, end: int, limit: int
    ) -> int:
        """The atom before which the piece that begins with atom `first` ends."""
        measured, start = self._measured, starts[first]
        least = int(limit * _LEAST_FILL)
        reach = min(measured.reach(start, limit), start + limit * MAX_CHARS_PER_TOKEN)
        last = max(first + 1, bisect_right(starts, reach) - 1)
        earliest = bisect_left(starts, measured.reach(start, least), lo=first + 1)
        if measured.tokens(start, end) < limit + least:
            # The rest makes two pieces; the second shall not be a scrap.
            while last > max(earliest, first + 1) and measured.tokens(starts[last], end) < least:
                last -= 1
        if earliest >= last:
            return last
        strongest = max(atom.strength for atom in atoms[earliest : last + 1])
        candidates = [
            index for index in range(earliest, last + 1) if atoms[index].strength == strongest
        ]
        return max(candidates, key=lambda index: self._hash(starts[index], starts[0], end))

    def _hash(self, position: int, left: int, right: int) -> int:
        """Of the text around a position, as far as it belongs to what is being packed."""
        around = self._text[
            max(left, position - _HASHED_CHARS) : min(right, position + _HASHED_CHARS)
        ]
        return zlib.crc32(around.encode("utf-8", "surrogatepass"))

    def _atoms(
        self,
        start: int,
        end: int,
        strength: int,
        limit: int,
        boundaries: Boundaries,
        finer: Sequence[_Finder],
    ) -> Iterator[_Atom]:
        if self.fits(start, end, limit) or end - start == 1:
            yield _Atom(start, strength)
            return
        inner, positions = boundaries.strongest(start, end)
        if not positions:
            find, *finest = finer
            yield from self._atoms(start, end, strength, limit, find(self, start, end), finest)
            return
        edges = [start, *positions, end]
        for number, (left, right) in enumerate(pairwise(edges)):
            outer = inner if number else strength
            yield from self._atoms(left, right, outer, limit, boundaries, finer)

    def _prose(self, start: int, end: int) -> Boundaries:
        return prose_boundaries(self._text, start, end)

    def _words(self, start: int, end: int) -> Boundaries:
        return word_boundaries(self._text, start, end)

    def _tiles(self, start: int, end: int) -> Boundaries:
        return self._outside_clusters(self._measured.tile_ends(start, end))

    def _clusters(self, start: int, end: int) -> Boundaries:
        return self._outside_clusters(range(start + 1, end))

    def _characters(self, start: int, end: int) -> Boundaries:
        return _equal(range(start + 1, end))

    def _outside_clusters(self, positions: Sequence[int]) -> Boundaries:
        text = self._text
        return _equal(
            position
            for position in positions
            if not _JOINED.match(text, position) and text[position - 1] != "\u200d"
        )


def _equal(positions: Iterable[int]) -> Boundaries:
    found = list(positions)
    return Boundaries(found, [_CHARACTER] * len(found))


_Finder = Callable[[Packer, int, int], Boundaries]
_FINER: Sequence[_Finder] = (
    Packer._prose,
    Packer._words,
    Packer._tiles,
    Packer._clusters,
    Packer._characters,
)
"""Where to cut what has no boundary of the kinds before."""
