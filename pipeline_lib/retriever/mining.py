"""Hard negatives: passages that search ranks high for a question though they do not answer it.

A passage that does answer the question (a *false negative*) must not be among them, or the model is
taught to push right answers away. Left out are the passage of the question itself and its near
duplicates, passages with the answer's words or a quote of the evidence in them, and passages that
the untuned model scores almost as high as the right one: where the model is that sure, it is often
the dataset that has missed an answer. The last rule, with a share of the positive's score as bound,
is from Moreira et al. 2024, "NV-Retriever: Improving text embedding models with effective
hard-negative mining" (TopK-PercPos).

Passages of held-out documents are never negatives either, so that nothing of what the tuned model
is measured on was seen in training.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline_lib.config import MiningConfig
from pipeline_lib.raft.contexts.guard import AnswerGuard
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.wording import containment
from pipeline_lib.retrieval.dense import FloatMatrix
from pipeline_lib.retriever.pairs import Pair, Passages

_RANDOM_DRAWS = 64
"""Random passages looked at, at most, where search has too few."""


@dataclass(frozen=True, kw_only=True)
class TrainingExample:
    """A pair with the passages that it is told apart from."""

    pair: Pair
    negatives: tuple[str, ...]
    """Chunk ids."""


@dataclass
class Mined:
    """The examples, and what happened on the way to them."""

    examples: list[TrainingExample] = field(default_factory=list)
    guarded: Counter[str] = field(default_factory=Counter)
    """Passages that might answer, and were left out, by reason."""
    num_random: int = 0
    """Negatives drawn at random because search had too few."""
    num_without: int = 0
    """Pairs left out because the corpus has too few passages that do not answer."""


class Miner:
    """Chooses negatives.

    Args:
        passages: the corpus.
        vectors: theirs under the untuned model, `[passages, dimension]`, of unit length.
        held_out: documents whose passages are never negatives.
        config: how many, from which ranks, how close.
        seed: of the random ones.
    """

    def __init__(
        self,
        passages: Passages,
        vectors: FloatMatrix,
        held_out: Collection[str],
        config: MiningConfig,
        seed: int,
    ) -> None:
        self._passages = passages
        self._vectors = vectors
        self._held_out = held_out
        self._config = config
        self._seed = seed

    def mine(
        self, pairs: Sequence[Pair], queries: FloatMatrix, ranked: Sequence[Sequence[str]]
    ) -> Mined:
        """One example for each pair for which there are negatives.

        Args:
            pairs: questions with their passages.
            queries: the questions' vectors under the untuned model, in order, of unit length.
            ranked: for each question the chunk ids that search found, best first.
        """
        mined = Mined()
        for pair, query, found in zip(pairs, queries, ranked, strict=True):
            negatives = self._negatives(pair, query, found, mined)
            if len(negatives) < self._config.num_negatives:
                mined.num_without += 1
            else:
                mined.examples.append(TrainingExample(pair=pair, negatives=negatives))
        return mined

    def _negatives(
        self, pair: Pair, query: FloatMatrix, found: Sequence[str], mined: Mined
    ) -> tuple[str, ...]:
        wanted = self._config.num_negatives
        guard = FalseNegativeGuard(pair, self._passages.text(pair.chunk_id), self._config)
        bound = self._highest_score(pair, query)
        window = found[self._config.first_rank - 1 : self._config.last_rank]
        chosen: dict[str, None] = {}
        for chunk_id in dict.fromkeys((*pair.distractors, *window)):
            if len(chosen) == wanted:
                return tuple(chosen)
            if chunk_id == pair.chunk_id or chunk_id not in self._passages.places:
                continue
            reason = self._danger(chunk_id, guard)
            if reason is None and self._score(chunk_id, query) > bound:
                reason = "scores_too_high"
            if reason is None:
                chosen[chunk_id] = None
            else:
                mined.guarded[reason] += 1
        num_hard = len(chosen)
        for chunk_id in self._random(pair):
            if len(chosen) == wanted:
                break
            # Their score says little: a question that the model understands least has them all
            # above its own passage, and it is the one that there is most to learn from.
            if chunk_id != pair.chunk_id and self._danger(chunk_id, guard) is None:
                chosen[chunk_id] = None
        mined.num_random += len(chosen) - num_hard
        return tuple(chosen)

    def _highest_score(self, pair: Pair, query: FloatMatrix) -> float:
        """What a negative may score at most; for a positive below 0 the bound lies below it too."""
        positive = self._score(pair.chunk_id, query)
        return positive - abs(positive) * (1 - self._config.max_relative_score)

    def _score(self, chunk_id: str, query: FloatMatrix) -> float:
        return float(self._vectors[self._passages.places[chunk_id]] @ query)

    def _danger(self, chunk_id: str, guard: FalseNegativeGuard) -> str | None:
        """Why a passage must not be a negative whatever it scores, or `None`."""
        place = self._passages.places[chunk_id]
        if self._passages.document_ids[place] in self._held_out:
            return "held_out_document"
        return guard.danger(self._passages.texts[place])

    def _random(self, pair: Pair) -> Iterator[str]:
        """Random passages; which ones depends on the pair alone, not on those before it."""
        rng = random.Random(f"{self._seed}\0{pair.row_id}")  # noqa: S311 - a draw, not a secret
        for _ in range(_RANDOM_DRAWS):
            yield self._passages.chunk_ids[rng.randrange(len(self._passages))]


class FalseNegativeGuard:
    """Tells whether a text may answer a pair's question.

    Copies of the positive come before what `AnswerGuard` looks for: they hold the answer too, and
    are counted as the copies that they are.
    """

    def __init__(self, pair: Pair, positive: str, config: MiningConfig) -> None:
        self._positive = positive
        self._max_overlap = config.max_overlap
        self._guard = AnswerGuard(
            [positive],
            pair.answer,
            pair.quotes,
            near_duplicate_threshold=config.max_overlap,
        )

    def danger(self, text: str) -> str | None:
        """Why `text` must not be a negative, or `None` when it may."""
        if fold(text) == fold(self._positive):
            return "same_text"
        if containment(text, self._positive) >= self._max_overlap:
            return "near_duplicate"
        return self._guard.evidence_in(text)


def documents_of(pairs: Iterable[Pair]) -> set[str]:
    """The documents that the pairs are about."""
    return {pair.document_id for pair in pairs}
