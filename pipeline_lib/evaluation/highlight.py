"""Cut texts into pieces so that quotes can be marked where they stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from pipeline_lib.evaluation.metrics.grounding import QUOTE_STATUSES
from pipeline_lib.evaluation.records import ArmAnswer, RecordedPassage
from pipeline_lib.raft.markup import escape


class Span(NamedTuple):
    """A quote's place in a text; code points, end exclusive."""

    start: int
    end: int
    status: str
    arm: str
    """Who quotes here."""


class Segment(NamedTuple):
    """A piece of text; `status` is empty where nothing is quoted."""

    text: str
    status: str = ""
    arms: tuple[str, ...] = ()
    """Who quotes this piece."""
    ending: tuple[str, ...] = ()
    """Of those, whose quote ends with this piece."""


def segments(text: str, spans: Iterable[Span]) -> list[Segment]:
    """Cut `text` at every border of a span; the pieces joined are the text again.

    Where spans overlap, the first in the order of `QUOTE_STATUSES` gives the status.
    """
    inside = [s for s in spans if 0 <= s.start < s.end <= len(text)]
    borders = sorted({0, len(text), *(s.start for s in inside), *(s.end for s in inside)})
    pieces = []
    for start, end in pairwise(borders):
        covering = [s for s in inside if s.start <= start and end <= s.end]
        status = min((s.status for s in covering), key=QUOTE_STATUSES.index, default="")
        arms = tuple(dict.fromkeys(s.arm for s in covering))
        ending = tuple(dict.fromkeys(s.arm for s in covering if s.end == end))
        pieces.append(Segment(text[start:end], status, arms, ending))
    return pieces


def answer_segments(answer: ArmAnswer) -> list[Segment]:
    """The answer's text with its quotes marked, each at its next occurrence."""
    spans, cursor = [], 0
    for quote in answer.quotes:
        written = quote.text if quote.text in answer.text else escape(quote.text)
        start = answer.text.find(written, cursor)
        if start >= 0:
            cursor = start + len(written)
            spans.append(Span(start, cursor, quote.status, answer.arm))
    return segments(answer.text, spans)


def passage_segments(passage: RecordedPassage, answers: Sequence[ArmAnswer]) -> list[Segment]:
    """The passage's text with the quotes that all arms took from it."""
    return segments(
        passage.text,
        [
            Span(quote.start, quote.end, quote.status, answer.arm)
            for answer in answers
            for quote in answer.quotes
            if quote.chunk_id == passage.chunk_id
            and quote.start is not None
            and quote.end is not None
        ],
    )
