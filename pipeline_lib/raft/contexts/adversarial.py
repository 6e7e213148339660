"""Near misses: the oracle's own text with one fact changed.

The changed fact is one that the answer states (a number, a date, a name), or the question's quoted
sentence is turned into its opposite. Neither the answer nor a quote of the row is left in such a
passage, so it can never count as the right one; everything else is as in the oracle, so that only
reading helps. Where the row quotes further sentences, these are cut out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.contexts.details import (
    MONTHS,
    NUMBER_WORDS,
    WEEKDAYS,
    Detail,
    details_of,
    is_year,
    names_of,
    negated,
    shape_of,
)
from pipeline_lib.raft.contexts.distractors import Distractor
from pipeline_lib.raft.contexts.groups import ContextGroup, Draft
from pipeline_lib.raft.contexts.ring import HashRing
from pipeline_lib.raft.facts import sentence_spans
from pipeline_lib.raft.keys import made_up_id, unit_interval
from pipeline_lib.raft.quotes import find_folded
from pipeline_lib.raft.showing import written_of
from pipeline_lib.raft.wording import words_in_order

_MONTH_LENGTHS = {
    "February": 28,
    **dict.fromkeys(("April", "June", "September", "November"), 30),
}
_LONGEST_MONTH = 31
_MAX_YEARS = 30
"""How far a changed year is from the right one."""
_MIN_KEPT_SHARE = 0.5
"""Of the oracle's text; with less left a passage is no near miss."""
_ATTEMPTS = 24
_NAMES_PER_SHAPE = 512


@dataclass(frozen=True)
class _Change:
    detail: Detail
    new: str
    text: str
    """The passage with it."""


class Changer:
    """Makes near misses.

    Args:
        chunks: passages whose names stand in for others; read when the first name is needed.
        seed: of the dataset.
    """

    def __init__(self, chunks: Callable[[], Iterable[Chunk]], *, seed: int) -> None:
        self._chunks = chunks
        self._seed = seed

    def passages(self, group: ContextGroup, count: int) -> list[Distractor]:
        """Up to `count` near misses for a group, fewer where no more facts can be changed.

        Each is of an oracle that is in the context.
        """
        changed = (
            _distractor(oracle, change)
            for draft in group.hosts
            for oracle in draft.sources
            for change in self._changes(draft, oracle, group)
        )
        made: dict[str, Distractor] = {}
        while len(made) < count and (distractor := next(changed, None)) is not None:
            made.setdefault(distractor.chunk_id, distractor)
        return list(made.values())

    def _changes(self, draft: Draft, oracle: Chunk, group: ContextGroup) -> Iterator[_Change]:
        """Changes after which `oracle` answers none of the group's questions."""
        details = sorted(
            _deciding_details(draft, oracle),
            key=lambda d: (
                d.kind == "negation",
                unit_interval(self._seed, draft.row_id, "change", d.start),
            ),
        )
        tried: set[str] = set()
        for detail in details:
            if detail.kind != "negation" and detail.text in tried:
                continue
            tried.add(detail.text)
            new = self._replacement(detail, draft, oracle)
            if new is None:
                continue
            text = _without_quotes(draft, _replaced(oracle.text, detail, new))
            is_near = len(text) >= _MIN_KEPT_SHARE * len(oracle.text) and text != oracle.text
            if is_near and group.evidence_in(text) is None:
                yield _Change(detail, new, text)

    def _replacement(self, detail: Detail, draft: Draft, oracle: Chunk) -> str | None:
        """Other words of the same form that the oracle and the answer do not have."""
        if detail.kind == "negation":
            return negated(detail.text)
        key = f"{draft.row_id}:{detail.text}"
        said = f"{oracle.text}\n{written_of(draft.candidate).final_answer}".casefold()
        for new in self._proposals(detail, key):
            if not _has(said, new.casefold()):
                return new
        return None

    def _proposals(self, detail: Detail, key: str) -> Iterator[str]:
        text = detail.text
        fixed = _series_of(text)
        if fixed is not None:
            yield from sorted(
                fixed, key=lambda other: unit_interval(self._seed, key, other.casefold())
            )
        elif detail.kind == "name":
            ring = self._names.get(shape_of(text))
            if ring is not None:
                yield from islice(ring.walk(key), _ATTEMPTS)
        else:
            for attempt in range(_ATTEMPTS):
                yield _other_number(text, unit_interval(self._seed, key, attempt))

    @cached_property
    def _names(self) -> dict[str, HashRing]:
        """Names of the corpus by shape, as many of each as suffice."""
        by_shape: dict[str, dict[str, float]] = {}
        for chunk in self._chunks():
            for name in set(names_of(chunk.text)):
                known = by_shape.setdefault(shape_of(name), {})
                if name not in known:
                    known[name] = unit_interval(self._seed, "name", name)
                if len(known) > 2 * _NAMES_PER_SHAPE:
                    by_shape[shape_of(name)] = _smallest(known)
        return {shape: HashRing(_smallest(names), self._seed) for shape, names in by_shape.items()}


def _smallest(names: dict[str, float]) -> dict[str, float]:
    """Which names are kept depends on the names, not on the order in which they came."""
    kept = sorted(names.items(), key=lambda item: (item[1], item[0]))[:_NAMES_PER_SHAPE]
    return dict(kept)


def _deciding_details(draft: Draft, oracle: Chunk) -> list[Detail]:
    """The details of an oracle that make the answer what it is.

    Those of the answer where it stands in the text, and those that it repeats. An answer in other
    words (a "yes") depends on whether the quoted sentences say that something is so.
    """
    written = written_of(draft.candidate)
    answers = _spans(written.final_answer, oracle.text)
    quoted = [(q.start, q.end) for q in written.quotes if q.chunk_id == oracle.chunk_id]
    return [
        detail
        for detail in details_of(oracle.text)
        if _touches(detail, answers)
        or (detail.kind == "negation" and not answers and _touches(detail, quoted))
        or (detail.kind != "negation" and _has(written.final_answer, detail.text))
    ]


def _has(text: str, words: str) -> bool:
    """Whether `words` stand in a text as whole words, in their case."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _spans(words: str, text: str) -> list[tuple[int, int]]:
    pattern = words_in_order(words)
    return [match.span() for match in pattern.finditer(text)] if pattern is not None else []


def _touches(detail: Detail, spans: Iterable[tuple[int, int]]) -> bool:
    return any(start < detail.end and detail.start < end for start, end in spans)


def _replaced(text: str, detail: Detail, new: str) -> str:
    """A fact is changed wherever it stands, a negation in its one place."""
    if detail.kind == "negation":
        return text[: detail.start] + new + text[detail.end :]
    everywhere = re.compile(rf"(?<![\w.]){re.escape(detail.text)}(?!\w|\.\d)")
    return everywhere.sub(lambda _: new, text)


def _without_quotes(draft: Draft, text: str) -> str:
    """A text without the sentences that a row quotes, where they still stand in it."""
    for quote in written_of(draft.candidate).quotes:
        place = find_folded(quote.text, text)
        if place is None:
            continue
        touched = [s for s in sentence_spans(text) if s[0] < place[1] and place[0] < s[1]]
        start = min([place[0], *(left for left, _ in touched)])
        end = max([place[1], *(right for _, right in touched)])
        text = f"{text[:start].rstrip()}\n{text[end:].lstrip()}".strip()
    return text


def _series_of(text: str) -> list[str] | None:
    """What else a word of a fixed series could be: another month of that length, another day."""
    if text in MONTHS:
        length = _MONTH_LENGTHS.get(text, _LONGEST_MONTH)
        return [
            month
            for month in MONTHS
            if month != text and _MONTH_LENGTHS.get(month, _LONGEST_MONTH) >= length
        ]
    if text.removesuffix("s") in WEEKDAYS:
        ending = "s" if text.endswith("s") else ""
        return [f"{day}{ending}" for day in WEEKDAYS if f"{day}{ending}" != text]
    if text.casefold() in NUMBER_WORDS:
        others = [word for word in NUMBER_WORDS if word != text.casefold()]
        return [word.capitalize() for word in others] if text[:1].isupper() else others
    return None


def _other_number(text: str, draw: float) -> str:
    """A number (or a year, or an ISO date) of the same form; may be the same by chance."""
    if text.count("-") == 2:
        return f"{text[:-2]}{1 + int(draw * 28):02}"
    if is_year(text):
        return str(int(text) + int(draw * 2 * _MAX_YEARS) - _MAX_YEARS)
    digits = [char for char in text if char.isdigit()]
    telling = "".join(digits).rstrip("0") or "".join(digits)
    low = 10 ** (len(telling) - 1) if len(telling) > 1 else 2
    high = 10 ** len(telling) - 1
    drawn = str(low + int(draw * (high - low + 1))) + "0" * (len(digits) - len(telling))
    fresh = iter(drawn)
    return "".join(next(fresh) if char.isdigit() else char for char in text)


def _distractor(oracle: Chunk, change: _Change) -> Distractor:
    detail = change.detail
    return Distractor(
        chunk_id=made_up_id(oracle.chunk_id, change.text),
        document_id=oracle.document_id,
        text=change.text,
        origin="adversarial",
        source_chunk_id=oracle.chunk_id,
        change=f"{detail.kind}: {detail.text} -> {change.new}",
    )
