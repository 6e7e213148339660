"""Evidence, found again in a document that was cut anew or edited.

Offsets count in the document: where a chunk began and the quote in it give the quote's place, and
the new chunk that holds this place has the quote, if the text there is still the same. Else the
quote is looked for by its words in all passages of the document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.candidates import quote_of
from pipeline_lib.raft.quotes import find_folded
from pipeline_lib.raft.rows import Quote
from pipeline_lib.raft.wording import containment

MIN_CONTAINMENT = 0.6
"""Share of the shorter passage's word 5-grams from which a passage without quotes is the same."""


@dataclass(frozen=True)
class Found:
    """A passage that holds a piece of evidence now."""

    chunk: Chunk
    quote: Quote | None = None
    """The quote as it was; `None`: the passage as a whole was meant."""
    start: int = 0
    """Where the quote is in `chunk` now."""
    end: int = 0
    is_in_place: bool = False
    """Whether it is where it was in the document."""

    def as_quote(self) -> Quote:
        """The quote as it is now; its white space may have changed."""
        return quote_of(self.chunk, self.start, self.end)


def find_again(
    before: Chunk, quotes: Sequence[Quote], passages: Sequence[Chunk]
) -> list[Found] | str:
    """The passages that hold what was quoted of a passage: as few as possible.

    Args:
        before: the passage as it was.
        quotes: what is needed of it; empty: the passage as a whole.
        passages: of the same document, as it is cut now.

    Returns:
        One for each quote, in their order, or one passage; the text that is nowhere, if so.
    """
    if not quotes:
        closest = max(passages, key=lambda chunk: _closeness(before, chunk), default=None)
        if closest is None or containment(before.text, closest.text) < MIN_CONTAINMENT:
            return before.text
        return [Found(closest)]
    missing = list(quotes)
    found: dict[Quote, Found] = {}
    while missing:
        located = [
            [place for quote in missing if (place := _locate(before, quote, chunk))]
            for chunk in passages
        ]
        most = max(map(_weight, located), default=(0, 0))
        if most == (0, 0):
            return missing[0].text
        best = max(
            (places for places in located if _weight(places) == most),
            key=lambda places: _closeness(before, places[0].chunk),
        )
        found |= {place.quote: place for place in best if place.quote is not None}
        missing = [quote for quote in missing if quote not in found]
    return [found[quote] for quote in quotes]


def _weight(places: Sequence[Found]) -> tuple[int, int]:
    """How many quotes a passage has, and how many of them in place."""
    return len(places), sum(place.is_in_place for place in places)


def _locate(before: Chunk, quote: Quote, chunk: Chunk) -> Found | None:
    start = before.start + quote.start - chunk.start
    end = start + len(quote.text)
    if start >= 0 and chunk.text[start:end] == quote.text:
        return Found(chunk, quote, start, end, is_in_place=True)
    place = find_folded(quote.text, chunk.text)
    return None if place is None else Found(chunk, quote, *place)


def _closeness(before: Chunk, chunk: Chunk) -> tuple[float, int]:
    """How much of `before` is in `chunk`; of equals, the earlier one."""
    return containment(before.text, chunk.text), -chunk.ordinal
