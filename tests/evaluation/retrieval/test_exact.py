"""Search in memory finds what Qdrant finds: same branches, same fusions."""

from __future__ import annotations

import random

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from pipeline_lib.config import RetrievalConfig
from pipeline_lib.evaluation.retrieval.exact import ExactIndex, fuse
from pipeline_lib.evaluation.retrieval.gold import Found
from pipeline_lib.retrieval.schema import BM25, DENSE
from pipeline_lib.retrieval.sparse import Bm25Encoder

WORDS = "red blue fox dog sleeps hunts night day house tree river stone bird sings runs".split()
DEPTH = 10


@pytest.fixture(scope="module")
def texts() -> list[str]:
    chooser = random.Random(3)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(3, 30))) for _ in range(60)]


@pytest.fixture(scope="module")
def queries() -> list[str]:
    chooser = random.Random(4)
    return [" ".join(chooser.sample(WORDS, 3)) for _ in range(12)]


def _vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def index(texts: list[str]) -> ExactIndex:
    ids = [str(number) for number in range(len(texts))]
    sparse = Bm25Encoder("english").encode_documents(texts)
    return ExactIndex(ids, [f"doc {n}" for n in ids], _vectors(len(texts), 0), sparse)


@pytest.fixture(scope="module")
def qdrant(texts: list[str]) -> QdrantClient:
    client = QdrantClient(":memory:")
    client.create_collection(
        "texts",
        vectors_config={DENSE: models.VectorParams(size=16, distance=models.Distance.COSINE)},
        sparse_vectors_config={BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    sparse = Bm25Encoder("english").encode_documents(texts)
    dense = _vectors(len(texts), 0)
    client.upsert(
        "texts",
        [
            models.PointStruct(id=n, vector={DENSE: dense[n].tolist(), BM25: sparse[n]})
            for n in range(len(texts))
        ],
    )
    return client


def _asked(index: ExactIndex, queries: list[str], limit: int = DEPTH):
    sparse = Bm25Encoder("english").encode_queries(queries)
    return index.search(_vectors(len(queries), 1), sparse, limit), sparse


@pytest.mark.parametrize("branch", [DENSE, BM25])
def test_branches_are_qdrants(
    index: ExactIndex, qdrant: QdrantClient, queries: list[str], branch: str
) -> None:
    found, sparse = _asked(index, queries)
    dense = _vectors(len(queries), 1)
    for row, branches in enumerate(found):
        vector = dense[row].tolist() if branch == DENSE else sparse[row]
        points = qdrant.query_points("texts", query=vector, using=branch, limit=DEPTH).points
        expected = [point.score for point in points]
        assert [each.score for each in branches[branch]] == pytest.approx(expected, rel=1e-4)
        scores = {str(point.id): point.score for point in points}
        for each in branches[branch]:
            # A tie at the last place may be cut to another point.
            assert scores.get(each.chunk_id, expected[-1]) == pytest.approx(each.score, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "query"),
    [
        (RetrievalConfig(prefetch_limit=DEPTH), models.FusionQuery(fusion=models.Fusion.DBSF)),
        (
            RetrievalConfig(fusion="rrf", rrf_k=1, prefetch_limit=DEPTH),
            models.RrfQuery(rrf=models.Rrf(k=2)),
        ),
    ],
)
def test_fusions_are_qdrants(
    index: ExactIndex,
    qdrant: QdrantClient,
    queries: list[str],
    config: RetrievalConfig,
    query: models.FusionQuery | models.RrfQuery,
) -> None:
    found, sparse = _asked(index, queries)
    dense = _vectors(len(queries), 1)
    for row, branches in enumerate(found):
        prefetch = [
            models.Prefetch(query=dense[row].tolist(), using=DENSE, limit=DEPTH),
            models.Prefetch(query=sparse[row], using=BM25, limit=DEPTH),
        ]
        points = qdrant.query_points("texts", prefetch=prefetch, query=query, limit=5).points
        fused = fuse(branches, config)
        assert [each.score for each in fused[:5]] == pytest.approx(
            [point.score for point in points], rel=1e-3
        )


def test_a_single_branch_is_that_branch_down_to_the_limit(
    index: ExactIndex, queries: list[str]
) -> None:
    found, _ = _asked(index, queries)
    config = RetrievalConfig(mode="dense", prefetch_limit=4)
    assert fuse(found[0], config) == list(found[0][DENSE][:4])


def test_a_query_of_stop_words_has_no_sparse_branch_and_fuses_to_the_dense_one(
    index: ExactIndex,
) -> None:
    found, _ = _asked(index, ["the of and"])
    assert BM25 not in found[0]
    assert fuse(found[0], RetrievalConfig(mode="sparse")) == []
    ids = [each.chunk_id for each in fuse(found[0], RetrievalConfig(prefetch_limit=DEPTH))]
    assert ids == [each.chunk_id for each in found[0][DENSE]]


def test_ties_are_cut_by_id_and_passages_without_a_shared_word_are_not_found() -> None:
    bm25 = Bm25Encoder("english")
    texts = ["red fox", "red fox", "red fox", "blue dog"]
    index = ExactIndex(list("dcba"), list("wxyz"), _vectors(4, 0), bm25.encode_documents(texts))
    [found] = index.search(_vectors(1, 1), bm25.encode_queries(["fox"]), 2)
    assert [each.chunk_id for each in found[BM25]] == ["b", "c"]
    assert isinstance(found[BM25][0], Found)
    [found] = index.search(_vectors(1, 1), bm25.encode_queries(["unheard"]), 2)
    assert BM25 not in found
