"""The passages that accompany a row: hard ones from retrieval, random ones from the corpus.

A distractor must not answer the question, else a right answer would be taught to be wrong: passages
that contain the answer's words in order, a quote of the row, or most of the oracle's text are left
out (and counted). No passage comes twice, by id or by text.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.errors import InputError
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.wording import containment
from pipeline_lib.retrieval.search import Hit

NEAR_DUPLICATE = 0.6
"""Share of the shorter passage's word 5-grams from which two passages count as the same."""


@dataclass(frozen=True)
class Distractor:
    """A passage that does not answer the question."""

    chunk: Chunk
    origin: Literal["retrieved", "random"]
    rank: int | None = None
    """Rank in the retrieval that brought it, from 1."""
    score: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What a distractor must not contain."""

    oracle: Chunk
    final_answer: str
    quotes: tuple[str, ...]


class DistractorPool:
    """Draws distractors from a corpus.

    Args:
        chunks: the whole corpus.
        random_fraction: share of random ones among a row's distractors.
    """

    def __init__(self, chunks: Sequence[Chunk], *, random_fraction: float) -> None:
        self._chunks = sorted(chunks, key=lambda chunk: chunk.chunk_id)
        self._by_id = {chunk.chunk_id: chunk for chunk in chunks}
        self._random_fraction = random_fraction
        self.guarded: Counter[str] = Counter()
        """Passages that were left out because they might answer, by reason."""

    def check_size(self, num_needed: int) -> None:
        """Make sure that rows of `num_needed` passages can be made at all.

        Raises:
            InputError: the corpus has fewer passages of different text.
        """
        num_texts = len({fold(chunk.text) for chunk in self._chunks})
        if num_texts < num_needed:
            raise InputError(
                f"The corpus has {num_texts} different passages, but a row needs {num_needed}",
                hint="Add documents, cut smaller chunks, or lower num_distractors.",
            )

    def draw(
        self, count: int, evidence: Evidence, hits: Sequence[Hit], rng: random.Random
    ) -> list[Distractor] | None:
        """`count` distractors: retrieved ones by rank, then random ones.

        Where retrieval brings too few, random ones take their place.

        Returns:
            `None` when the corpus has too few passages that do not answer.
        """
        num_random = round(count * self._random_fraction)
        taken = _Taken(evidence, self.guarded)
        chosen: list[Distractor] = []
        for hit in hits:
            if len(chosen) == count - num_random:
                break
            chunk = self._by_id.get(hit.chunk_id)
            if chunk is not None and taken.accepts(chunk):
                chosen.append(Distractor(chunk, "retrieved", hit.rank, hit.score))
        ranks = {hit.chunk_id: hit for hit in hits}
        for chunk in _shuffled(self._chunks, rng):
            if len(chosen) == count:
                break
            if taken.accepts(chunk):
                chosen.append(_random_one(chunk, ranks.get(chunk.chunk_id)))
        return chosen if len(chosen) == count else None


class _Taken:
    """Which passages a row may still get."""

    def __init__(self, evidence: Evidence, guarded: Counter[str]) -> None:
        self._evidence = evidence
        self._guarded = guarded
        self._answer = words_in_order(evidence.final_answer)
        self._quotes = [fold(quote) for quote in evidence.quotes]
        self._ids = {evidence.oracle.chunk_id}
        self._texts = {fold(evidence.oracle.text)}

    def accepts(self, chunk: Chunk) -> bool:
        """Whether `chunk` can be a distractor; if so it is taken."""
        text = fold(chunk.text)
        if chunk.chunk_id in self._ids or text in self._texts:
            return False
        self._ids.add(chunk.chunk_id)
        reason = self._danger(chunk, text)
        if reason is not None:
            self._guarded[reason] += 1
            return False
        self._texts.add(text)
        return True

    def _danger(self, chunk: Chunk, text: str) -> str | None:
        if self._answer is not None and self._answer.search(text):
            return "contains_answer"
        if any(quote in text for quote in self._quotes):
            return "contains_quote"
        if containment(chunk.text, self._evidence.oracle.text) >= NEAR_DUPLICATE:
            return "near_duplicate_of_oracle"
        return None


def _random_one(chunk: Chunk, hit: Hit | None) -> Distractor:
    if hit is None:
        return Distractor(chunk, "random")
    return Distractor(chunk, "random", hit.rank, hit.score)


def words_in_order(answer: str) -> re.Pattern[str] | None:
    """Pattern of the answer's words, whatever case and punctuation; `None` without words."""
    words = re.findall(r"\w+", answer)
    if not words:
        return None
    return re.compile(r"\b" + r"\W+".join(map(re.escape, words)) + r"\b", re.IGNORECASE)


def _shuffled(chunks: Sequence[Chunk], rng: random.Random) -> list[Chunk]:
    return rng.sample(chunks, len(chunks))
