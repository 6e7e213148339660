"""Exact dense and BM25 search over passages in memory, by the formulas that Qdrant uses.

A sweep asks every query of every setting. Against a collection that is minutes per setting; here
the branches of all queries are a few matrix products, and each fusion of them costs milliseconds.
It holds all vectors: 4 bytes for each dense component, 12 for each term of a passage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline_lib.config import RetrievalConfig
from pipeline_lib.evaluation.retrieval.gold import Found
from pipeline_lib.retrieval.dense import FloatMatrix, TextEncoder
from pipeline_lib.retrieval.fusion import BranchPlace, join_branches
from pipeline_lib.retrieval.schema import BM25, DENSE
from pipeline_lib.retrieval.sparse import Bm25Encoder

if TYPE_CHECKING:
    from qdrant_client.models import SparseVector

Branches = Mapping[str, Sequence[Found]]
"""Branch name (`schema.DENSE`, `schema.BM25`) to what it found for one query, best first."""

_QUERY_BLOCK = 256
"""Queries scored at a time: a block times 100,000 passages is 100 MB."""
_SCORE_DIGITS = 6


class ExactIndex:
    """Passages with their vectors.

    Args:
        chunk_ids: of the passages.
        document_ids: of the passages' documents.
        dense: `[passages, dimension]`.
        sparse: one BM25 vector a passage; may be empty.
    """

    def __init__(
        self,
        chunk_ids: Sequence[str],
        document_ids: Sequence[str],
        dense: FloatMatrix,
        sparse: Sequence[SparseVector],
    ) -> None:
        self._chunk_ids = chunk_ids
        self._document_ids = document_ids
        self._dense = _unit_rows(dense)
        self._bm25 = _Bm25Matrix(sparse)

    @classmethod
    def build(
        cls,
        chunk_ids: Sequence[str],
        document_ids: Sequence[str],
        texts: Sequence[str],
        encoder: TextEncoder,
        bm25: Bm25Encoder,
    ) -> ExactIndex:
        """Encode the passages' texts."""
        dense, sparse = encoder.encode_documents(texts), bm25.encode_documents(texts)
        return cls(chunk_ids, document_ids, dense, sparse)

    def search(
        self, dense: FloatMatrix, sparse: Sequence[SparseVector], limit: int
    ) -> list[Branches]:
        """Both branches of every query, at most `limit` passages each.

        Args:
            dense: the queries' vectors, `[queries, dimension]`.
            sparse: the queries' BM25 vectors.
            limit: passages per branch.
        """
        dense_found = self._search_dense(_unit_rows(dense), limit)
        sparse_found = self._search_sparse(sparse, limit)
        return [
            {DENSE: d, **({BM25: s} if s else {})}
            for d, s in zip(dense_found, sparse_found, strict=True)
        ]

    def _search_dense(self, queries: FloatMatrix, limit: int) -> Iterator[list[Found]]:
        for start in range(0, len(queries), _QUERY_BLOCK):
            scores = queries[start : start + _QUERY_BLOCK] @ self._dense.T
            for row in scores:
                yield self._best(row, limit)

    def _search_sparse(self, queries: Sequence[SparseVector], limit: int) -> Iterator[list[Found]]:
        for start in range(0, len(queries), _QUERY_BLOCK):
            for row in self._bm25.scores(queries[start : start + _QUERY_BLOCK]):
                yield [found for found in self._best(row, limit) if found.score > 0]

    def _best(self, scores: npt.NDArray[Any], limit: int) -> list[Found]:
        """The passages of the highest scores; those of equal score by id, as search has it."""
        limit = min(limit, len(scores))
        if limit < len(scores):
            # Everything level with the last place, so that ties are cut by id.
            least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
            least -= abs(least) * 10.0 ** -(_SCORE_DIGITS - 1)
            chosen = np.flatnonzero(scores >= least)
        else:
            chosen = np.arange(len(scores))
        found = [
            Found(
                self._chunk_ids[place],
                self._document_ids[place],
                float(f"{scores[place]:.{_SCORE_DIGITS}g}"),
            )
            for place in chosen.tolist()
        ]
        return sorted(found, key=lambda each: (-each.score, each.chunk_id))[:limit]


def fuse(branches: Branches, config: RetrievalConfig) -> list[Found]:
    """What a search with these settings makes of the branches (without MMR and reranking).

    Args:
        branches: at least `config.prefetch_limit` deep, or as deep as they go.
        config: which branches, how they are joined, and how many candidates each gives.
    """
    wanted = {"dense": (DENSE,), "sparse": (BM25,), "hybrid": (DENSE, BM25)}[config.mode]
    used = {name: branches[name][: config.prefetch_limit] for name in wanted if branches.get(name)}
    documents = {each.chunk_id: each.document_id for found in used.values() for each in found}
    places = {
        name: {each.chunk_id: BranchPlace(each.score, rank) for rank, each in enumerate(found, 1)}
        for name, found in used.items()
    }
    return [
        Found(candidate.point, documents[candidate.point], candidate.score)
        for candidate in join_branches(places, config)
    ]


def _unit_rows(matrix: FloatMatrix) -> FloatMatrix:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: FloatMatrix = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)
    return unit


class _Bm25Matrix:
    """Terms by passages, each weight times ln(1 + (n - df + 0.5) / (df + 0.5)).

    `n` counts the passages that have a vector, as Qdrant's IDF modifier does. Term ids are 32-bit
    hashes, so columns are numbered by those that occur.
    """

    def __init__(self, vectors: Sequence[SparseVector]) -> None:
        from scipy.sparse import csr_matrix

        passages, terms, weights = _triples(vectors)
        self._terms, rows, frequencies = np.unique(terms, return_inverse=True, return_counts=True)
        num_passages = len(np.unique(passages))
        idf = np.log1p((num_passages - frequencies + 0.5) / (frequencies + 0.5))
        shape = (len(self._terms), len(vectors))
        self._matrix = csr_matrix((weights * idf[rows], (rows, passages)), shape=shape)

    def scores(self, queries: Sequence[SparseVector]) -> npt.NDArray[np.float64]:
        """`[queries, passages]`."""
        from scipy.sparse import csr_matrix

        numbers, terms, weights = _triples(queries)
        columns = np.searchsorted(self._terms, terms)
        known = np.zeros(len(terms), dtype=bool)
        inside = columns < len(self._terms)
        known[inside] = self._terms[columns[inside]] == terms[inside]
        block = csr_matrix(
            (weights[known], (numbers[known], columns[known])),
            shape=(len(queries), len(self._terms)),
        )
        scores: npt.NDArray[np.float64] = (block @ self._matrix).toarray()
        return scores


def _triples(
    vectors: Sequence[SparseVector],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Row, term and weight of every entry."""
    lengths = [len(vector.indices) for vector in vectors]
    terms = np.array([term for vector in vectors for term in vector.indices], dtype=np.int64)
    weights = np.array([value for vector in vectors for value in vector.values], dtype=np.float64)
    return np.repeat(np.arange(len(vectors)), lengths), terms, weights
