"""Where a passage supports an answer that is known already.

An answer that stands in a passage word for word is supported by the sentence around it. A reworded
one is supported by the fewest sentences that cover most of its content words, and all its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.drafts import quote_of
from pipeline_lib.raft.facts import sentence_spans
from pipeline_lib.raft.rows import Quote
from pipeline_lib.raft.wording import content_words

MIN_COVERED_SHARE = 0.6
"""Of a reworded answer's content words, those that its evidence must have."""
MAX_SENTENCES = 3

_Span = tuple[int, int]


@dataclass(frozen=True)
class Support:
    """A passage with the quotes that support an answer."""

    chunk: Chunk
    quotes: tuple[Quote, ...]


def find_support(
    question: str, answer: str, chunks: Sequence[Chunk], *, min_quote_chars: int
) -> Support | None:
    """The best support among `chunks`, earlier ones first where they are equal.

    Args:
        question: chooses between several places that have the answer.
        answer: the known answer.
        chunks: passages to look in.
        min_quote_chars: shorter evidence is widened by neighbouring sentences.
    """
    asked = set(content_words(question))
    best: tuple[float, Chunk, list[_Span]] | None = None
    for chunk in chunks:
        found = _verbatim(chunk.text, answer, asked) or _covering(chunk.text, answer, asked)
        if found is not None and (best is None or found[0] > best[0]):
            best = (found[0], chunk, found[1])
    if best is None:
        return None
    _, chunk, spans = best
    widened = sorted({_widened(chunk.text, span, min_quote_chars) for span in spans})
    if any(end - start < min_quote_chars for start, end in widened):
        return None
    return Support(chunk, tuple(quote_of(chunk, start, end) for start, end in widened))


def _verbatim(text: str, answer: str, asked: set[str]) -> tuple[float, list[_Span]] | None:
    """The sentences around the occurrence whose surroundings fit the question best.

    Scores from 2 up, so that a verbatim answer beats every reworded one.
    """
    words = answer.strip().rstrip(".").split()
    if not words:
        return None
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)"
    sentences = sentence_spans(text)
    known = set(content_words(text))
    found: tuple[float, list[_Span]] | None = None
    for match in re.finditer(pattern, text, re.IGNORECASE):
        around = [span for span in sentences if span[0] < match.end() and match.start() < span[1]]
        if not around:
            continue
        span = (around[0][0], around[-1][1])
        near = set(content_words(text[span[0] : span[1]]))
        score = 2 + _share(asked, near) + _share(asked, known)
        if found is None or score > found[0]:
            found = (score, [span])
    return found


def _covering(text: str, answer: str, asked: set[str]) -> tuple[float, list[_Span]] | None:
    """Few sentences that together have the answer's words, chosen greedily."""
    wanted = set(content_words(answer))
    if not wanted:
        return None
    sentences = {span: set(content_words(text[span[0] : span[1]])) for span in sentence_spans(text)}
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
            return covered + _share(asked, set(content_words(text))) / 2, chosen
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


def _share(wanted: set[str], found: set[str]) -> float:
    return len(wanted & found) / len(wanted) if wanted else 0.0


def _numbers(words: set[str]) -> set[str]:
    return {word for word in words if any(char.isdigit() for char in word)}
