"""How good a model is between two epochs, on questions about documents it does not train on.

Embedding the whole corpus after each epoch would cost more than the training. So each validation
question has a pool of its own: the passage that answers it and the best that search found with the
untuned model. What is looked at is the rank of the right one in its pool (nDCG@10), and where
epochs are level on that, the cross-entropy of the right one against its pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline_lib.evaluation.metrics.retrieval import ndcg_at_k
from pipeline_lib.retriever.pairs import Pair, Passages

Encode = Callable[[list[str]], npt.NDArray[np.float32]]
"""Texts to vectors of unit length, `[texts, dimension]`."""

POOL_SIZE = 20
"""Passages from search in each question's pool."""
MAX_QUESTIONS = 512
"""More would say little more; the first by row id."""
_CUTOFF = 10
_LEVEL = 1e-6


@dataclass(frozen=True)
class ValidationScore:
    """A model on the validation questions."""

    ndcg: float
    """Mean nDCG@10 within the pools."""
    loss: float
    """Mean cross-entropy (nats) within the pools."""

    def is_better_than(self, other: ValidationScore) -> bool:
        """Higher nDCG, or the same with a lower loss."""
        if abs(self.ndcg - other.ndcg) > _LEVEL:
            return self.ndcg > other.ndcg
        return self.loss < other.loss


class Validation:
    """The validation questions with their pools.

    Args:
        pairs: validation pairs.
        ranked: for each pair the chunk ids that search found, best first.
        passages: the corpus.
        scale: similarities are multiplied by it before the softmax.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        ranked: Sequence[Sequence[str]],
        passages: Passages,
        scale: float,
    ) -> None:
        chosen = sorted(zip(pairs, ranked, strict=True), key=lambda each: each[0].row_id)
        self._pools = [
            (pair, [pair.chunk_id, *(c for c in found if c != pair.chunk_id)][: POOL_SIZE + 1])
            for pair, found in chosen[:MAX_QUESTIONS]
        ]
        self._chunk_ids = sorted({chunk_id for _, pool in self._pools for chunk_id in pool})
        self._texts = [passages.text(chunk_id) for chunk_id in self._chunk_ids]
        self._scale = scale

    def __len__(self) -> int:
        return len(self._pools)

    def score(self, encode_queries: Encode, encode_documents: Encode) -> ValidationScore:
        """Encode questions and pools, and score them."""
        queries = encode_queries([pair.question for pair, _ in self._pools])
        documents = encode_documents(self._texts)
        places = {chunk_id: place for place, chunk_id in enumerate(self._chunk_ids)}
        gains, losses = [], []
        for query, (pair, pool) in zip(queries, self._pools, strict=True):
            scores = documents[[places[chunk_id] for chunk_id in pool]] @ query
            order = sorted(zip(-scores, pool, strict=True))
            ranking = [chunk_id for _, chunk_id in order]
            gains.append(ndcg_at_k(ranking, {pair.chunk_id: 1}, _CUTOFF))
            losses.append(_cross_entropy(self._scale * scores.astype(np.float64)))
        return ValidationScore(float(np.mean(gains)), float(np.mean(losses)))


def _cross_entropy(logits: npt.NDArray[np.float64]) -> float:
    """Of the first against all."""
    highest = logits.max()
    return float(highest + np.log(np.exp(logits - highest).sum()) - logits[0])
