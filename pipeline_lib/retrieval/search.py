"""Search in an index: dense, sparse or both, filtered, reranked, diversified, expanded.

    query -> branches (Qdrant) -> fusion -> reranking -> maximal marginal relevance -> expansion

A search of many queries sends the branches of all of them together, `store.QUERY_BATCH` requests at
a time, without payloads; one more call reads the points that are still in play. These are the hits
themselves, unless a later step chooses among more candidates. Reranking and expansion take place
when the store is closed again, so that in local mode others get their turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import LATEST
from pipeline_lib.config import RetrievalConfig, SearchFilter
from pipeline_lib.errors import ArtifactNotFoundError, ConfigError, VectorStoreError
from pipeline_lib.models import resolve_model
from pipeline_lib.retrieval.dense import DenseEncoder, FloatMatrix, TextEncoder
from pipeline_lib.retrieval.diversity import diversify
from pipeline_lib.retrieval.filters import has_field, qdrant_filter
from pipeline_lib.retrieval.fusion import Candidate, join_branches, rank_branch
from pipeline_lib.retrieval.highlighting import matching_words
from pipeline_lib.retrieval.hits import Hit, make_hit
from pipeline_lib.retrieval.layout import search_params
from pipeline_lib.retrieval.parents import ParentReader
from pipeline_lib.retrieval.reranking import Reranker, open_reranker, rerank
from pipeline_lib.retrieval.schema import BM25, DENSE, IndexRecord
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.stage import Workspace

if TYPE_CHECKING:
    from qdrant_client.models import QueryRequest, Record

__all__ = ["Hit", "PassageSearcher", "Searcher", "check_collection", "latest_index"]

_MOST_COUNTED = 10_000
"""Points whose ids are read to count them: some 100 bytes each."""


class PassageSearcher(Protocol):
    """What the stages that search need of a `Searcher`."""

    def search(
        self, queries: Sequence[str], *, limit: int, config: RetrievalConfig
    ) -> list[list[Hit]]:
        """The best passages for each query, best first, at most `limit`."""


@dataclass(frozen=True)
class _Point:
    """What is stored of a candidate."""

    payload: Mapping[str, Any]
    vector: FloatMatrix | None
    """The dense one `[dimension]`, where it was asked for."""


class Searcher:
    """Searches the collection of one index artifact. Open it by `Searcher.open`."""

    def __init__(
        self,
        ws: Workspace,
        ref: ArtifactRef,
        record: IndexRecord,
        encoder: TextEncoder,
        reranker: Reranker | None = None,
    ) -> None:
        self._ws = ws
        self._ref = ref
        self._record = record
        self._encoder = encoder
        self._bm25 = Bm25Encoder(record.bm25_language)
        self._given_reranker = reranker
        self._rerankers: dict[str, Reranker] = {}
        self._parents: ParentReader | None = None

    @classmethod
    def open(
        cls,
        ws: Workspace,
        index: ArtifactRef,
        *,
        encoder: TextEncoder | None = None,
        reranker: Reranker | None = None,
    ) -> Searcher:
        """Prepare to search; loads no model and does not touch Qdrant yet.

        Args:
            ws: live services.
            index: the index artifact.
            encoder: makes the queries' dense vectors; by default the model that the index was
                made with.
            reranker: reranks where the configuration names any; by default the model that it names.

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
        return cls(ws, index, record, encoder, reranker)

    def search(
        self, queries: Sequence[str], *, limit: int, config: RetrievalConfig
    ) -> list[list[Hit]]:
        """The best passages for each query, best first, at most `limit`.

        Equal scores are ordered by chunk id, in branches as after fusion, so that the same points
        are always found in the same order. (Which of several equal ones are among a branch's
        candidates at all, at its `prefetch_limit`, is Qdrant's choice.) A query without a term
        (stop words only) has no sparse branch: sparse search finds nothing for it, hybrid search
        is dense.

        Raises:
            VectorStoreError: the collection is gone, holds another corpus by now, or changes.
            ModelNotFoundError, ConfigError: the reranker cannot be had or used.
            ArtifactError: expansion needs the index's corpus, which is gone or damaged.
            ValueError: `limit` is not positive.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if not queries:
            return []
        requests = self._requests(queries, limit, config)
        if not any(requests):
            return [[] for _ in queries]
        is_diverse = config.mmr_lambda < 1
        with VectorStore(self._ws.settings, f"searching {self._ref}", self._ws.progress) as store:
            check_collection(store, self._record, self._ref)
            found = self._ask(store, requests, config, depth=_depth(limit, config))
            points = self._read(store, found, with_vectors=is_diverse)
        rankings = [
            [
                make_hit(candidate, points[candidate.point].payload, rank=rank)
                for rank, candidate in enumerate(candidates, start=1)
            ]
            for candidates in found
        ]
        if config.rerank.model:
            rankings = rerank(queries, rankings, self._reranker(config), self._ws.progress)
        if is_diverse:
            rankings = [
                diversify(hits, [points[hit.chunk_id].vector for hit in hits], config, limit)
                for hits in rankings
            ]
        if config.expand.unit != "none" and any(rankings):
            return self._parent_reader().expand(rankings, config.expand, limit=limit)
        return [hits[:limit] for hits in rankings]

    def highlights(self, query: str, text: str) -> list[tuple[int, int]]:
        """Start and end of each word of `text` that shares a BM25 term with `query`."""
        return matching_words(query, text, self._bm25)

    def document_sizes(self, document_ids: Collection[str]) -> dict[str, int]:
        """How many chunks each of a few documents has; empty when they are too many to count."""
        from qdrant_client.models import QueryRequest

        if not document_ids:
            return {}
        wanted = SearchFilter(
            field="document_id", operator="any_of", values=tuple(sorted(document_ids))
        )
        request = QueryRequest(
            filter=qdrant_filter([wanted]), limit=_MOST_COUNTED, with_payload=["document_id"]
        )
        with VectorStore(self._ws.settings, f"searching {self._ref}", self._ws.progress) as store:
            [points] = store.query(self._record.collection, [request])
        if len(points) == _MOST_COUNTED:
            return {}
        return dict(Counter(point.payload["document_id"] for point in points if point.payload))

    def fields_without_values(self, fields: Sequence[str]) -> list[str]:
        """Those of a filter's fields that no chunk has a value in: often misspelt."""
        from qdrant_client.models import QueryRequest

        if not fields:
            return []
        requests = [
            QueryRequest(filter=has_field(field), limit=1, with_payload=False) for field in fields
        ]
        with VectorStore(self._ws.settings, f"searching {self._ref}", self._ws.progress) as store:
            answers = store.query(self._record.collection, requests)
        return [field for field, points in zip(fields, answers, strict=True) if not points]

    def _requests(
        self, queries: Sequence[str], limit: int, config: RetrievalConfig
    ) -> list[dict[str, QueryRequest]]:
        """For each query the request of each branch, by name; none with nothing to search for."""
        from qdrant_client.models import QueryRequest

        vectors: list[dict[str, Any]] = [{} for _ in queries]
        if config.mode != "sparse":
            for row, dense in enumerate(self._encoder.encode_queries(queries).tolist()):
                vectors[row][DENSE] = dense
        if config.mode != "dense":
            for row, sparse in enumerate(self._bm25.encode_queries(queries)):
                if sparse.indices:
                    vectors[row][BM25] = sparse
        condition = qdrant_filter(config.filters)
        return [
            {
                name: QueryRequest(
                    query=vector,
                    using=name,
                    filter=condition,
                    limit=max(config.prefetch_limit, _depth(limit, config)),
                    params=search_params(self._record.quantization) if name == DENSE else None,
                    with_payload=False,
                )
                for name, vector in branches.items()
            }
            for branches in vectors
        ]

    def _ask(
        self,
        store: VectorStore,
        requests: Sequence[Mapping[str, QueryRequest]],
        config: RetrievalConfig,
        *,
        depth: int,
    ) -> list[list[Candidate]]:
        """Run every branch of every query, and fuse: the best `depth` of each."""
        asked = [request for branches in requests for request in branches.values()]
        answers = iter(store.query(self._record.collection, asked))
        return [
            join_branches({name: rank_branch(next(answers)) for name in branches}, config)[:depth]
            for branches in requests
        ]

    def _read(
        self, store: VectorStore, found: Sequence[Sequence[Candidate]], *, with_vectors: bool
    ) -> dict[str, _Point]:
        """Every candidate's point, once, by id."""
        ids = sorted({each.point for candidates in found for each in candidates})
        points = {
            str(record.id): _Point(record.payload or {}, _dense_vector(record))
            for record in store.read(self._record.collection, ids, with_vectors=with_vectors)
        }
        if len(points) < len(ids):
            raise VectorStoreError(
                f"{len(ids) - len(points)} points of {self._record.collection} vanished during a "
                "search: the collection is being changed right now",
                hint="Search again when the index stage is done.",
            )
        return points

    def _reranker(self, config: RetrievalConfig) -> Reranker:
        if self._given_reranker is not None:
            return self._given_reranker
        name = config.rerank.model
        if name not in self._rerankers:
            self._rerankers[name] = open_reranker(
                self._ws.settings, config.rerank, self._ws.progress
            )
        return self._rerankers[name]

    def _parent_reader(self) -> ParentReader:
        if self._parents is None:
            corpus = self._ws.artifacts.manifest(self._ref).input_refs["corpus"]
            self._parents = ParentReader(self._ws.artifacts.directory(corpus))
        return self._parents


def latest_index(ws: Workspace, name: str) -> ArtifactRef:
    """The index that the pipeline `name` made last.

    Raises:
        ArtifactNotFoundError: there is none yet.
    """
    index = ws.artifacts.alias("index", name, LATEST)
    if index is None:
        raise ArtifactNotFoundError(
            f"There is no index {name!r} to search in",
            hint="Run the ingest and index stages of that name first, or the whole pipeline.",
        )
    return index


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


def _depth(limit: int, config: RetrievalConfig) -> int:
    """How many fused candidates the steps after fusion choose from."""
    if config.rerank.model:
        return max(limit, config.rerank.num_candidates)
    if config.mmr_lambda < 1 or config.expand.unit != "none":
        return max(limit, config.prefetch_limit)
    return limit


def _dense_vector(record: Record) -> FloatMatrix | None:
    vectors = record.vector
    return np.asarray(vectors[DENSE], dtype=np.float32) if isinstance(vectors, dict) else None
