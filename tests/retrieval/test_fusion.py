"""Fusion by hand-worked cases, and against Qdrant's own."""

from __future__ import annotations

import random

import pytest
from qdrant_client import QdrantClient, models

from pipeline_lib.config import RetrievalConfig
from pipeline_lib.retrieval.fusion import dbsf_shares, join_branches, rank_branch, rrf_share
from pipeline_lib.retrieval.schema import BM25, DENSE


def branch(**scores: float):
    return rank_branch(
        [models.ScoredPoint(id=name, version=0, score=score) for name, score in scores.items()]
    )


def fused(config: RetrievalConfig, **branches) -> dict[str, float]:
    return {each.point: each.score for each in join_branches(branches, config)}


def test_a_branch_ranks_by_score_and_equal_scores_by_id():
    places = branch(c=0.5, b=0.9, a=0.5)
    assert [(p, place.rank) for p, place in places.items()] == [("b", 1), ("a", 2), ("c", 3)]


def test_differences_below_single_precision_are_ties():
    assert list(branch(b=0.12345678, a=0.12345671)) == ["a", "b"]


def test_weighted_rrf_by_hand():
    # dense: a, b; BM25: b, c; k = 1, weights 2 and 1. Share: 1 / (1 + rank / weight).
    config = RetrievalConfig(fusion="rrf", rrf_k=1, dense_weight=2, sparse_weight=1)
    found = fused(config, **{DENSE: branch(a=0.9, b=0.8), BM25: branch(b=7.0, c=3.0)})
    assert found == pytest.approx(
        {
            "b": 1 / (1 + 2 / 2) + 1 / (1 + 1),  # 1
            "a": 1 / (1 + 1 / 2),  # 2/3
            "c": 1 / (1 + 2),  # 1/3
        },
        rel=1e-5,
    )
    assert list(found) == ["b", "a", "c"]


def test_weights_stretch_ranks():
    assert rrf_share(3, 60, 3.0) == rrf_share(1, 60, 1.0) == pytest.approx(1 / 61)
    assert rrf_share(1, 60, 0.0) == 0


def test_dbsf_by_hand():
    # Mean 2, sample deviation 1: from -1 (0) to 5 (1).
    assert dbsf_shares([1.0, 2.0, 3.0]) == pytest.approx([2 / 6, 3 / 6, 4 / 6])
    assert dbsf_shares([7.0]) == dbsf_shares([4.0, 4.0])[:1] == [0.5]
    assert dbsf_shares([]) == []


def test_weighted_dbsf_multiplies_shares():
    config = RetrievalConfig(dense_weight=0.5, sparse_weight=2)
    found = fused(config, **{DENSE: branch(a=3, b=2, c=1), BM25: branch(c=9.0)})
    assert found == pytest.approx(
        {"c": 0.5 * 2 / 6 + 2 * 0.5, "a": 0.5 * 4 / 6, "b": 0.25}, rel=1e-5
    )


@pytest.mark.parametrize("fusion", ["dbsf", "rrf"])
def test_a_branch_of_weight_zero_changes_no_order(fusion: str):
    config = RetrievalConfig(fusion=fusion, sparse_weight=0)
    found = fused(config, **{DENSE: branch(a=0.9, b=0.8, c=0.1), BM25: branch(c=9.0, d=8.0)})
    assert list(found) == ["a", "b", "c", "d"]
    assert found["d"] == 0


@pytest.mark.parametrize("fusion", ["dbsf", "rrf"])
def test_equal_fused_scores_are_ordered_by_id(fusion: str):
    config = RetrievalConfig(fusion=fusion)
    mirrored = {DENSE: branch(z=2, a=1), BM25: branch(a=2, z=1)}
    assert list(fused(config, **mirrored)) == ["a", "z"]


def test_a_single_branch_keeps_its_scores_unless_the_search_is_hybrid():
    places = {DENSE: branch(a=0.9, b=0.8)}
    [first, _] = join_branches(places, RetrievalConfig(mode="dense"))
    assert (first.score, first.is_fused) == (0.9, False)
    [first, _] = join_branches(places, RetrievalConfig(fusion="rrf"))
    assert (first.score, first.is_fused) == (pytest.approx(1 / 61, rel=1e-5), True)


def test_candidates_say_where_each_branch_put_them():
    config = RetrievalConfig()
    candidates = join_branches({DENSE: branch(a=0.9, b=0.8), BM25: branch(b=7.0)}, config)
    places = {
        c.point: {name: (p.score, p.rank) for name, p in c.places.items()} for c in candidates
    }
    assert places == {"a": {DENSE: (0.9, 1)}, "b": {DENSE: (0.8, 2), BM25: (7.0, 1)}}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("config", "query"),
    [
        (RetrievalConfig(), models.FusionQuery(fusion=models.Fusion.DBSF)),
        (RetrievalConfig(fusion="rrf"), models.RrfQuery(rrf=models.Rrf(k=61))),
        (
            RetrievalConfig(fusion="rrf", rrf_k=4, dense_weight=0.5, sparse_weight=3),
            models.RrfQuery(rrf=models.Rrf(k=5, weights=[0.5, 3])),
        ),
    ],
    ids=["dbsf", "rrf", "weighted rrf"],
)
def test_fusions_are_those_of_qdrant(config: RetrievalConfig, query, seed: int):
    rng = random.Random(seed)
    client = QdrantClient(":memory:")
    client.create_collection(
        "c",
        vectors_config={DENSE: models.VectorParams(size=4, distance=models.Distance.COSINE)},
        sparse_vectors_config={BM25: models.SparseVectorParams()},
    )
    client.upsert("c", [_random_point(number, rng) for number in range(40)])
    asked = _random_point(99, rng).vector
    prefetch = [models.Prefetch(query=asked[n], using=n, limit=15) for n in (DENSE, BM25)]
    theirs = client.query_points("c", prefetch=prefetch, query=query, limit=30).points
    branches = {
        name: rank_branch(client.query_points("c", query=asked[name], using=name, limit=15).points)
        for name in (DENSE, BM25)
    }
    client.close()
    ours = fused(config, **branches)
    assert ours == pytest.approx({str(each.id): each.score for each in theirs}, rel=1e-4)


def _random_point(number: int, rng: random.Random) -> models.PointStruct:
    terms = sorted(rng.sample(range(12), 5))
    sparse = models.SparseVector(indices=terms, values=[rng.random() for _ in terms])
    dense = [rng.gauss(0, 1) for _ in range(4)]
    return models.PointStruct(id=number, vector={DENSE: dense, BM25: sparse})
