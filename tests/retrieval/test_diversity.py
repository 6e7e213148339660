"""Maximal marginal relevance by hand, and against Qdrant's own for dense search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from pipeline_lib.retrieval.diversity import diverse_order, scaled


def at(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane."""
    return np.asarray(
        [[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], dtype=np.float32
    )


def test_by_hand():
    # Relevance 1, 0.9, 0.5; cosines: first and second 1 (the same), first and third 0.5 (60°).
    # Second step, lambda 0.5: 0.45 - 0.5 = -0.05 against 0.25 - 0.25 = 0: the third comes first.
    # Lambda 0.8: 0.72 - 0.2 = 0.52 against 0.4 - 0.1 = 0.3: the second.
    relevance, vectors = [1.0, 0.9, 0.5], at(0, 0, 60)
    assert diverse_order(relevance, vectors, mmr_lambda=0.5, count=3) == [0, 2, 1]
    assert diverse_order(relevance, vectors, mmr_lambda=0.8, count=3) == [0, 1, 2]


def test_a_candidate_is_held_against_the_most_similar_one_taken():
    # After 0° and 90°, 45° lies at cosine 0.71 from both and 180° at 0 from its nearest.
    order = diverse_order([1.0, 0.9, 0.9, 0.9], at(0, 45, 90, 180), mmr_lambda=0.1, count=4)
    assert order == [0, 3, 2, 1]


def test_lambda_one_is_relevance_and_equals_keep_their_order():
    assert diverse_order([0.2, 0.9, 0.9], at(0, 10, 20), mmr_lambda=1, count=3) == [1, 2, 0]
    assert diverse_order([0.5] * 3, at(30, 30, 30), mmr_lambda=0.5, count=3) == [0, 1, 2]


def test_lambda_zero_takes_the_most_relevant_then_the_most_different():
    assert diverse_order([0.5, 1.0, 0.4], at(90, 0, 120), mmr_lambda=0, count=2) == [1, 2]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_each_candidate_is_taken_at_most_once(count: int):
    order = diverse_order([0.1, 0.2, 0.3], at(1, 2, 3), mmr_lambda=0.5, count=count)
    assert len(order) == len(set(order)) == min(count, 3)


def test_lengths_of_vectors_do_not_count_and_a_zero_vector_resembles_nothing():
    vectors = np.asarray([[3, 0], [50, 0], [0, 0]], dtype=np.float32)
    assert diverse_order([1.0, 0.9, 0.8], vectors, mmr_lambda=0.5, count=3) == [0, 2, 1]
    assert diverse_order([], np.empty((0, 2), np.float32), mmr_lambda=0.5, count=3) == []


def test_scaling_to_a_cosines_range():
    assert scaled([3.0, -1.0, 1.0]) == [1.0, 0.0, 0.5]
    assert scaled([7.0, 7.0]) == [1.0, 1.0]
    assert scaled([]) == []


@pytest.mark.parametrize("mmr_lambda", [0.2, 0.5, 0.9])
def test_it_is_qdrants_where_relevance_is_the_cosine(mmr_lambda: float):
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(30, 6)).astype(np.float32)
    query = rng.normal(size=6).astype(np.float32)
    client = QdrantClient(":memory:")
    client.create_collection(
        "c", vectors_config=models.VectorParams(size=6, distance=models.Distance.COSINE)
    )
    client.upsert("c", [models.PointStruct(id=n, vector=v.tolist()) for n, v in enumerate(vectors)])
    nearest = models.NearestQuery(
        nearest=query.tolist(), mmr=models.Mmr(diversity=1 - mmr_lambda, candidates_limit=30)
    )
    theirs = [point.id for point in client.query_points("c", query=nearest, limit=12).points]
    client.close()
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    ours = diverse_order(cosines.tolist(), vectors, mmr_lambda=mmr_lambda, count=12)
    assert ours == theirs
