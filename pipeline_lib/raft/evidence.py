"""Where passages support an answer that is known already.

An answer that stands in a passage word for word is supported by the sentence around it. One that
runs over the borders of passages has them all as its oracles, and the sentence of each that says
most about the question as its quotes. A reworded answer is supported by the fewest sentences of one
passage that cover most of its content words, and all its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from pipeline_lib.corpus.schema import Chunk, Document
from pipeline_lib.raft.candidates import quote_of
from pipeline_lib.raft.facts import sentence_spans
from pipeline_lib.raft.quotes import find_folded, fold
from pipeline_lib.raft.rows import Quote
from pipeline_lib.raft.wording import content_words

MIN_COVERED_SHARE = 0.6
"""Of a reworded answer's content words, those that its evidence must have."""
MAX_SENTENCES = 3
MAX_ORACLES = 8
"""Passages that an answer may run over: more leave no room for distractors in a context."""
_LONG_QUOTE_CHARS = 400
"""A longer "sentence" is a list or a table in one line, and quoted only where there is no other."""

_Span = tuple[int, int]


@dataclass(frozen=True)
class Support:
    """Passages of one document with the quotes that support an answer."""

    chunks: tuple[Chunk, ...]
    """In the document's order."""
    quotes: tuple[Quote, ...]


def find_support(
    question: str,
    answer: str,
    chunks: Sequence[Chunk],
    *,
    min_quote_chars: int,
    document: Document | None = None,
) -> Support | None:
    """The best support among `chunks`, earlier ones first where they are equal.

    Args:
        question: chooses between several places that have the answer.
        answer: the known answer.
        chunks: passages to look in.
        min_quote_chars: shorter evidence is widened by neighbouring sentences.
        document: whose passages all of `chunks` are, so that an answer may run over several.
    """
    asked = _content(question)
    whole = [
        (found[0], chunk, found[1])
        for chunk in chunks
        if (found := _verbatim(chunk.text, answer, asked)) is not None
    ]
    if not whole and document is not None:
        spanning = _spanning(document, chunks, answer, asked, min_quote_chars)
        if spanning is not None:
            return spanning
    reworded = [
        (found[0], chunk, found[1])
        for chunk in chunks
        if not whole and (found := _covering(chunk.text, answer, asked)) is not None
    ]
    if not whole and not reworded:
        return None
    _, chunk, spans = max(whole or reworded, key=lambda found: found[0])
    quotes = _quotes(chunk, spans, min_quote_chars)
    return Support((chunk,), quotes) if quotes else None


def _spanning(
    document: Document,
    chunks: Sequence[Chunk],
    answer: str,
    asked: Set[str],
    min_quote_chars: int,
) -> Support | None:
    """The passages that a verbatim answer runs over, each with its most telling sentence."""
    place = find_folded(answer, document.text)
    covering = _cover(chunks, *place) if place is not None else []
    if place is None or not 1 <= len(covering) <= MAX_ORACLES:
        return None
    told = _content(answer)
    quotes: list[Quote] = []
    for chunk in covering:
        inside = [
            span
            for span in sentence_spans(chunk.text)
            if place[0] <= chunk.start + span[0] and chunk.start + span[1] <= place[1]
        ]
        inside = [s for s in inside if s[1] - s[0] <= _LONG_QUOTE_CHARS] or inside[:1]
        if not inside:
            continue
        said = {span: _content(chunk.text[span[0] : span[1]]) for span in inside}
        best = max(
            inside, key=lambda span: (len(said[span] & asked), len(said[span] & told), -span[0])
        )
        quotes += _quotes(chunk, [best], min_quote_chars)
    return Support(tuple(covering), tuple(quotes)) if quotes else None


def _cover(chunks: Sequence[Chunk], start: int, end: int) -> list[Chunk]:
    """The fewest passages over a span of their document; empty where they leave out some of it.

    Between passages there may be white space that belongs to none.
    """
    position, chosen = start, []
    ordered = sorted(chunks, key=lambda chunk: (chunk.start, chunk.end))
    while position < end:
        reaching = [c for c in ordered if c.end > position and c.start < end]
        here = [c for c in reaching if c.start <= position] or reaching[:1]
        if not here:
            break
        best = max(here, key=lambda chunk: chunk.end)
        chosen.append(best)
        position = best.end
    return chosen


def _quotes(chunk: Chunk, spans: Sequence[_Span], min_chars: int) -> tuple[Quote, ...]:
    """Spans as quotes, widened where too short; empty where one cannot be long enough."""
    widened = sorted({_widened(chunk.text, span, min_chars) for span in spans})
    if any(end - start < min_chars for start, end in widened):
        return ()
    return tuple(quote_of(chunk, start, end) for start, end in widened)


def _verbatim(text: str, answer: str, asked: Set[str]) -> tuple[float, list[_Span]] | None:
    """The sentences around the occurrence whose surroundings fit the question best.

    Scores from 2 up, so that a verbatim answer beats every reworded one.
    """
    words = answer.strip().rstrip(".").split()
    if not words or " ".join(words).casefold() not in _bare(text):
        return None  # most texts: no pattern is made for them
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)"
    sentences = sentence_spans(text)
    known = _content(text)
    found: tuple[float, list[_Span]] | None = None
    for match in re.finditer(pattern, text, re.IGNORECASE):
        around = [span for span in sentences if span[0] < match.end() and match.start() < span[1]]
        if not around:
            continue
        span = (around[0][0], around[-1][1])
        near = _content(text[span[0] : span[1]])
        score = 2 + _share(asked, near) + _share(asked, known)
        if found is None or score > found[0]:
            found = (score, [span])
    return found


def _covering(text: str, answer: str, asked: Set[str]) -> tuple[float, list[_Span]] | None:
    """Few sentences that together have the answer's words, chosen greedily."""
    wanted = _content(answer)
    if not wanted:
        return None
    if len(wanted & _content(text)) < MIN_COVERED_SHARE * len(wanted):
        return None
    sentences = {span: _content(text[span[0] : span[1]]) for span in sentence_spans(text)}
    chosen: list[_Span] = []
    missing = set(wanted)
    while sentences and missing and len(chosen) < MAX_SENTENCES:
        span = max(
            sentences, key=lambda s: (len(sentences[s] & missing), len(sentences[s] & asked), -s[0])
        )
        if not sentences[span] & missing:
            break
        missing -= sentences.pop(span)
        chosen.append(span)
        if 1 - len(missing) / len(wanted) >= MIN_COVERED_SHARE and not _numbers(missing):
            covered = 1 - len(missing) / len(wanted)
            return covered + _share(asked, _content(text)) / 2, chosen
    return None


def _widened(text: str, span: _Span, min_chars: int) -> _Span:
    """`span` with following, then preceding sentences until it is long enough."""
    sentences = sentence_spans(text)
    start, end = span
    for _, right in (s for s in sentences if s[0] >= span[1]):
        if end - start >= min_chars:
            break
        end = right
    for left, _ in reversed([s for s in sentences if s[1] <= span[0]]):
        if end - start >= min_chars:
            break
        start = left
    return start, end


@lru_cache(maxsize=8192)
def _content(text: str) -> frozenset[str]:
    """Content words of a text; the pairs about a document look at the same ones again and again."""
    return frozenset(content_words(text))


@lru_cache(maxsize=2048)
def _bare(text: str) -> str:
    return fold(text).casefold()


def _share(wanted: Set[str], found: Set[str]) -> float:
    return len(wanted & found) / len(wanted) if wanted else 0.0


def _numbers(words: Set[str]) -> set[str]:
    return {word for word in words if any(char.isdigit() for char in word)}
