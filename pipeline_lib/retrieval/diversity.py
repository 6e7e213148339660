"""Maximal marginal relevance: passages that are relevant and do not repeat each other.

Qdrant has it too, but for one dense search only: relevance is then the cosine to the query. Here it
comes after fusion and reranking, so that their scores are what relevance means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline_lib.config import RetrievalConfig
from pipeline_lib.retrieval.dense import FloatMatrix
from pipeline_lib.retrieval.hits import Hit, renumbered


def diversify(
    hits: Sequence[Hit],
    vectors: Sequence[FloatMatrix | None],
    config: RetrievalConfig,
    limit: int,
) -> list[Hit]:
    """The hits in the order of maximal marginal relevance, those that it would not take left out.

    Relevance is the score by which they were ranked: a cosine as it is, any other between 0 for
    the lowest and 1 for the highest among the hits.

    Args:
        hits: best first.
        vectors: the dense vector `[dimension]` of each.
        config: lambda, and whether hits are to be expanded: then all are kept, as some may merge.
        limit: how many are asked for.
    """
    scores = [hit.score for hit in hits]
    is_cosine = config.mode == "dense" and not config.rerank.model
    order = diverse_order(
        scores if is_cosine else scaled(scores),
        np.asarray(vectors, dtype=np.float32),
        mmr_lambda=config.mmr_lambda,
        count=limit if config.expand.unit == "none" else len(hits),
    )
    return renumbered([hits[index] for index in order])


def diverse_order(
    relevance: Sequence[float], vectors: FloatMatrix, *, mmr_lambda: float, count: int
) -> list[int]:
    """Indices of the `count` candidates to take, in order.

    Each step takes the candidate with the largest
    `mmr_lambda * relevance - (1 - mmr_lambda) * (largest cosine to those already taken)`, from
    Carbonell and Goldstein, "The use of MMR" (SIGIR 1998). The first is the most relevant one. Of
    equals the one that comes first is taken.

    Args:
        relevance: of each candidate, on the scale of a cosine.
        vectors: `[len(relevance), dimension]`, of any length; a zero vector resembles nothing.
        mmr_lambda: 1 for relevance alone, 0 for difference alone.
        count: how many to take; all candidates if there are fewer.
    """
    if not relevance:
        return []
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    gains = np.asarray(relevance, dtype=np.float64)
    likeness: npt.NDArray[np.float64] = np.full(len(relevance), -np.inf)
    is_open = np.ones(len(relevance), dtype=bool)
    chosen = [int(np.argmax(gains))]
    while len(chosen) < min(count, len(relevance)):
        is_open[chosen[-1]] = False
        np.maximum(likeness, unit @ unit[chosen[-1]], out=likeness)
        margins = mmr_lambda * gains - (1 - mmr_lambda) * likeness
        chosen.append(int(np.argmax(np.where(is_open, margins, -np.inf))))
    return chosen[:count]


def scaled(scores: Sequence[float]) -> list[float]:
    """Scores stretched to 0 to 1, for those that are no cosines; all 1 when they are equal."""
    if not scores:
        return []
    lowest, highest = min(scores), max(scores)
    if lowest == highest:
        return [1.0] * len(scores)
    return [(score - lowest) / (highest - lowest) for score in scores]
