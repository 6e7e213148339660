"""Joins what the branches of a hybrid search found, by Qdrant's formulas.

Qdrant can fuse by itself, but then says neither which branch found a point nor at which rank.
Asking for the branches as well as for their fusion would run each branch twice, and in local mode
the sparse one is a loop in Python over every point. So only the branches are asked for, in one
request, and the few dozen candidates are fused here, in less than a millisecond. The formulas are
those of the server (`lib/segment/src/common/score_fusion.rs` and `reciprocal_rank_fusion.rs`). What
comes on top: points of equal score keep one order, however the collection was filled, and weights
hold for score fusion too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline_lib.config import RetrievalConfig
from pipeline_lib.retrieval.schema import BM25, DENSE

if TYPE_CHECKING:
    from qdrant_client.models import ScoredPoint

_SCORE_DIGITS = 6
"""Digits that single precision holds. Further ones differ from call to call, which would break ties
at random."""
_NEUTRAL = 0.5
"""The share of a score in a branch where all scores are equal."""
_NUM_DEVIATIONS = 3.0


@dataclass(frozen=True)
class BranchPlace:
    """Where one branch put a point."""

    score: float
    rank: int
    """From 1."""


Branch = Mapping[str, BranchPlace]
"""Point to its place, best first."""


@dataclass(frozen=True)
class Candidate:
    """A point that some branch found."""

    point: str
    score: float
    """Fused, or that of the only branch."""
    places: Mapping[str, BranchPlace]
    """By the names of the branches that found it."""
    is_fused: bool


def rank_branch(points: Sequence[ScoredPoint]) -> Branch:
    """One branch's points by score; those of equal score by id."""
    scores = {str(point.id): _rounded(point.score) for point in points}
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return {point: BranchPlace(score, rank) for rank, (point, score) in enumerate(ranked, start=1)}


def join_branches(branches: Mapping[str, Branch], config: RetrievalConfig) -> list[Candidate]:
    """All points of the branches, best first; those of equal score by id.

    Args:
        branches: by name. Hybrid search may have a single one: a query of stop words has no sparse
            branch.
        config: which fusion, with which weights.
    """
    is_fused = config.mode == "hybrid"
    scores: dict[str, float] = {}
    for name, branch in branches.items():
        for point, share in _shares(name, branch, config).items():
            scores[point] = scores.get(point, 0.0) + share
    rounded = {point: _rounded(score) for point, score in scores.items()}
    return [
        Candidate(point, score, _places(point, branches), is_fused)
        for point, score in sorted(rounded.items(), key=lambda item: (-item[1], item[0]))
    ]


def _shares(name: str, branch: Branch, config: RetrievalConfig) -> dict[str, float]:
    """What each point of a branch adds to its score."""
    if config.mode != "hybrid":
        return {point: place.score for point, place in branch.items()}
    weight = {DENSE: config.dense_weight, BM25: config.sparse_weight}[name]
    if config.fusion == "rrf":
        return {p: rrf_share(place.rank, config.rrf_k, weight) for p, place in branch.items()}
    shares = dbsf_shares([place.score for place in branch.values()])
    return {point: weight * share for point, share in zip(branch, shares, strict=True)}


def rrf_share(rank: int, k: int, weight: float) -> float:
    """Weighted reciprocal rank: `1 / (k + rank / weight)`, 0 for a weight of 0.

    With a weight of 1, that of Cormack, Clarke and Büttcher (SIGIR 2009). Weights stretch ranks, as
    Qdrant has it: with 3 against 1, ranks 1 to 3 of the first branch lie before rank 1 of the
    second or level with it. Qdrant counts positions from 0, so its `k` is this one plus 1.
    """
    return 1 / (k + rank / weight) if weight > 0 else 0.0


def dbsf_shares(scores: Sequence[float]) -> list[float]:
    """Distribution-based score fusion: each score between mean - 3 s (0) and mean + 3 s (1).

    `s` is the sample's standard deviation (divided by n - 1). Scores that are all equal, or the
    only one, count 0.5. From Mazzeschi, "Distribution-Based Score Fusion (DBSF)", 2023, as Qdrant
    has it.
    """
    if not scores:
        return []
    if min(scores) == max(scores):
        return [_NEUTRAL] * len(scores)
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    spread = _NUM_DEVIATIONS * math.sqrt(variance)
    return [(score - (mean - spread)) / (2 * spread) for score in scores]


def _places(point: str, branches: Mapping[str, Branch]) -> dict[str, BranchPlace]:
    return {name: branch[point] for name, branch in branches.items() if point in branch}


def _rounded(score: float) -> float:
    return float(f"{score:.{_SCORE_DIGITS}g}")
