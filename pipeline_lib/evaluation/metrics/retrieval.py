"""Retrieval metrics of one query, as trec_eval defines them.

`retrieved` are document ids, best first; repeated ids count once, at their best rank. `relevance`
maps every judged document to its gain (greater than 0: relevant). Averages are taken over all
queries that have a relevant document; a query without results scores 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log2

RankedMeasure = Callable[[Sequence[str], Mapping[str, int], int], float]


def recall_at_k(retrieved: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """Relevant documents among the first k, divided by all relevant documents.

    Raises:
        ValueError: no document is relevant, or k is below 1.
    """
    relevant = _relevant(relevance)
    return len(relevant.intersection(_top(retrieved, k))) / len(relevant)


def precision_at_k(retrieved: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """Relevant documents among the first k, divided by k even when fewer were retrieved.

    Raises:
        ValueError: no document is relevant, or k is below 1.
    """
    return len(_relevant(relevance).intersection(_top(retrieved, k))) / k


def mrr_at_k(retrieved: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """1 / rank of the first relevant document within the first k, else 0.

    Raises:
        ValueError: no document is relevant, or k is below 1.
    """
    relevant = _relevant(relevance)
    ranks = (rank for rank, name in enumerate(_top(retrieved, k), start=1) if name in relevant)
    return 1 / next(ranks, float("inf"))


def success_at_k(retrieved: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """1 if any relevant document is among the first k, else 0.

    Raises:
        ValueError: no document is relevant, or k is below 1.
    """
    return float(not _relevant(relevance).isdisjoint(_top(retrieved, k)))


def ndcg_at_k(retrieved: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """Discounted cumulative gain within k, relative to the best possible order.

    Linear gain, discount log2(rank + 1), ideal over all judged documents: trec_eval's `ndcg_cut`.

    Raises:
        ValueError: no document is relevant, or k is below 1.
    """
    _relevant(relevance)
    gains = [max(relevance.get(name, 0), 0) for name in _top(retrieved, k)]
    ideal = sorted((max(gain, 0) for gain in relevance.values()), reverse=True)[:k]
    return _discounted(gains) / _discounted(ideal)


MEASURES: dict[str, RankedMeasure] = {
    "recall": recall_at_k,
    "precision": precision_at_k,
    "mrr": mrr_at_k,
    "ndcg": ndcg_at_k,
    "success": success_at_k,
}


def _relevant(relevance: Mapping[str, int]) -> set[str]:
    relevant = {name for name, gain in relevance.items() if gain > 0}
    if not relevant:
        raise ValueError("a query without relevant documents has no retrieval metrics")
    return relevant


def _top(retrieved: Sequence[str], k: int) -> list[str]:
    if k < 1:
        raise ValueError(f"the cutoff must be at least 1, not {k}")
    return list(dict.fromkeys(retrieved))[:k]


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, start=1))
