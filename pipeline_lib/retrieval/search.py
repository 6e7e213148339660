"""Search in an index: dense, sparse, or both fused by Qdrant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import RetrievalConfig
from pipeline_lib.errors import ConfigError, VectorStoreError
from pipeline_lib.models import resolve_model
from pipeline_lib.retrieval.dense import DenseEncoder, TextEncoder
from pipeline_lib.retrieval.schema import BM25, DENSE, IndexRecord
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.stage import Workspace

if TYPE_CHECKING:
    from qdrant_client.models import (
        FusionQuery,
        QueryRequest,
        RrfQuery,
        ScoredPoint,
        SparseVector,
    )

_RANK_OFFSET = 1
"""Qdrant's RRF score is 1 / (k + position) with positions from 0; the paper's ranks are from 1."""
_SCORE_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One retrieved passage."""

    chunk_id: str
    document_id: str
    title: str
    source_uri: str
    text: str
    start: int
    end: int
    rank: int
    """From 1."""
    score: float
    """Comparable within one query only; its scale depends on mode and fusion."""


class PassageSearcher(Protocol):
    """What the stages that search need of a `Searcher`."""

    def search(
        self, queries: Sequence[str], *, limit: int, config: RetrievalConfig
    ) -> list[list[Hit]]:
        """The best passages for each query, best first, at most `limit`."""


class Searcher:
    """Searches the collection of one index artifact. Open it by `Searcher.open`."""

    def __init__(
        self, ws: Workspace, ref: ArtifactRef, record: IndexRecord, encoder: TextEncoder
    ) -> None:
        self._ws = ws
        self._ref = ref
        self._record = record
        self._encoder = encoder
        self._bm25 = Bm25Encoder(record.bm25_language)

    @classmethod
    def open(
        cls, ws: Workspace, index: ArtifactRef, *, encoder: TextEncoder | None = None
    ) -> Searcher:
        """Prepare to search; loads no model and does not touch Qdrant yet.

        Args:
            ws: live services.
            index: the index artifact.
            encoder: makes the queries' dense vectors; by default the model that the index was
                made with.

        Raises:
            ConfigError: that model has changed since.
        """
        record = IndexRecord.load(ws.artifacts.directory(index))
        if encoder is None:
            model = resolve_model(ws.settings, record.embedding_model, ws.progress)
            encoder = DenseEncoder(model.path, model.identity)
        if encoder.identity != record.embedding_identity:
            raise ConfigError(
                f"The embedding model {record.embedding_model!r} is {encoder.identity}, but "
                f"{index} was made with {record.embedding_identity}",
                hint="Run the index stage again, or bring back the model it was made with.",
            )
        return cls(ws, index, record, encoder)

    def search(
        self, queries: Sequence[str], *, limit: int, config: RetrievalConfig
    ) -> list[list[Hit]]:
        """The best passages for each query, best first, at most `limit`.

        Points of equal score are ordered by chunk id. (Inside a branch Qdrant orders them, so that
        RRF, which sees ranks only, may treat them differently once the collection was refilled.)
        A query without a term (stop words only) has no sparse branch: sparse search finds nothing
        for it, hybrid search is dense.

        Raises:
            VectorStoreError: the collection is gone, or holds another corpus by now.
            ValueError: `limit` is not positive.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if not queries:
            return []
        requests = self._requests(queries, limit, config)
        asked = [request for request in requests if request is not None]
        if not asked:
            return [[] for _ in queries]
        with VectorStore(self._ws.settings, f"searching {self._ref}", self._ws.progress) as store:
            check_collection(store, self._record, self._ref)
            answers = iter(store.query(self._record.collection, asked))
            ranked = [
                [] if request is None else _best(next(answers), limit) for request in requests
            ]
            ids = sorted({point for best in ranked for point, _ in best})
            payloads = store.payloads(self._record.collection, ids)
        return [
            [
                _hit(payloads[point], rank, score)
                for rank, (point, score) in enumerate(best, start=1)
            ]
            for best in ranked
        ]

    def _requests(
        self, queries: Sequence[str], limit: int, config: RetrievalConfig
    ) -> list[QueryRequest | None]:
        """One request per query; `None` where there is nothing to search for."""
        num_candidates = max(config.prefetch_limit, limit)
        dense: list[list[float]] | None = None
        sparse: list[SparseVector] | None = None
        if config.mode != "sparse":
            dense = self._encoder.encode_queries(queries).tolist()
        if config.mode != "dense":
            sparse = self._bm25.encode_queries(queries)
        requests: list[QueryRequest | None] = []
        for row in range(len(queries)):
            branches: dict[str, Any] = {}
            if dense is not None:
                branches[DENSE] = dense[row]
            if sparse is not None and sparse[row].indices:
                branches[BM25] = sparse[row]
            requests.append(_request(branches, num_candidates, config))
        return requests


def check_collection(store: VectorStore, record: IndexRecord, ref: ArtifactRef) -> None:
    """Make sure that the collection still holds what the index artifact says.

    Raises:
        VectorStoreError: it does not, or is gone.
    """
    hint = f"Run the index stage of {ref.name!r} again: it restores what this index describes."
    if not store.exists(record.collection):
        raise VectorStoreError(
            f"{ref} lies in the collection {record.collection}, which is not in Qdrant at "
            f"{store.location}",
            hint=hint,
        )
    mark, num_points = store.content_mark(record.collection)
    if num_points != record.num_points or mark != record.points_sha256:
        raise VectorStoreError(
            f"The collection {record.collection} ({num_points} points) no longer holds the "
            f"{record.num_points} points of {ref}: it follows the latest corpus of its name, or "
            "is being changed right now",
            hint=hint,
        )


def _request(
    branches: dict[str, Any], num_candidates: int, config: RetrievalConfig
) -> QueryRequest | None:
    """A request for every candidate, not only the best, so that ties are cut by our own order."""
    from qdrant_client.models import Prefetch, QueryRequest

    if not branches:
        return None
    if config.mode != "hybrid":
        [(using, vector)] = branches.items()
        return QueryRequest(query=vector, using=using, limit=num_candidates, with_payload=False)
    prefetch = [
        Prefetch(query=vector, using=using, limit=num_candidates)
        for using, vector in branches.items()
    ]
    return QueryRequest(
        prefetch=prefetch,
        query=_fusion(config),
        limit=num_candidates * len(prefetch),
        with_payload=False,
    )


def _fusion(config: RetrievalConfig) -> FusionQuery | RrfQuery:
    from qdrant_client.models import Fusion, FusionQuery, Rrf, RrfQuery

    if config.fusion == "dbsf":
        return FusionQuery(fusion=Fusion.DBSF)
    return RrfQuery(rrf=Rrf(k=config.rrf_k + _RANK_OFFSET))


def _best(points: Sequence[ScoredPoint], limit: int) -> list[tuple[str, float]]:
    """Ids and scores of the best, scores to the digits that single precision holds.

    Further digits differ from call to call, which would break ties at random.
    """
    scores = {str(point.id): float(f"{point.score:.{_SCORE_DIGITS}g}") for point in points}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:limit]


def _hit(payload: dict[str, Any], rank: int, score: float) -> Hit:
    return Hit(
        chunk_id=payload["chunk_id"],
        document_id=payload["document_id"],
        title=payload["title"],
        source_uri=payload["source_uri"],
        text=payload["text"],
        start=payload["start"],
        end=payload["end"],
        rank=rank,
        score=score,
    )
