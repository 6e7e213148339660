"""Makes a Qdrant collection hold exactly a corpus' chunks, embedding only texts that are new.

The payloads are streamed, once per step, and between steps only ids and digests are kept (24 bytes
a point): what is there is compared with what should be; vectors that nobody has made yet are made
and kept in the embedding cache; points are written, updated and deleted by id; the result is
verified; the alias moves. Ended at any moment and started again, it goes on where it was.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import VectorStoreError
from pipeline_lib.progress import Progress, phase
from pipeline_lib.retrieval.dense import FloatMatrix, TextEncoder
from pipeline_lib.retrieval.digests import PointDigests, PointIds
from pipeline_lib.retrieval.embedder import Embedder, batched
from pipeline_lib.retrieval.embedding_cache import EmbeddingCache
from pipeline_lib.retrieval.layout import KEYWORD_FIELDS, CollectionLayout
from pipeline_lib.retrieval.schema import BM25, DENSE, Payload, Payloads, digests_of
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import WRITE_BATCH, VectorStore
from pipeline_lib.retrieval.verification import VerificationReport, verify_collection
from pipeline_lib.retrieval.versions import activate

if TYPE_CHECKING:
    from qdrant_client.models import PointStruct, SparseVector

logger = logging.getLogger(__name__)

LOCAL_POINT_LIMIT = 20_000
"""Most points in local mode, whose searches read every one of them in Python."""
POINT_WINDOW = 1_024
"""Points whose vectors are in memory at once while they are written."""
_SETTLE_TRIES = 5
_SETTLE_SECONDS = 1.0

OpenStore = Callable[[], VectorStore]


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What a synchronisation did, in points unless it says otherwise."""

    num_points: int
    num_added: int
    """Written with their vectors."""
    num_embedded: int
    """Texts that the model had to embed; for the others the cache had a vector."""
    num_updated: int
    """Same text, other payload (a title, an offset): vectors kept."""
    num_deleted: int
    num_deleted_collections: int
    """Collections of this name that are neither in use nor kept for going back."""
    points_sha256: str
    verification: VerificationReport

    @property
    def num_unchanged(self) -> int:
        """Points that were there already, as they should be."""
        return self.num_points - self.num_added - self.num_updated


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """How a collection is kept and checked."""

    layout: CollectionLayout = field(default_factory=CollectionLayout)
    payload_indexes: Mapping[str, str] | None = None
    """Payload field to index type; by default document, source, language and media type."""
    artifact: str = ""
    """The index artifact that will describe the collection; for going back to it."""
    keep_previous: int = 1
    upload_batch: int = WRITE_BATCH
    verify_sample: int = 64
    local_point_limit: int = LOCAL_POINT_LIMIT


def sync_collection(
    open_store: OpenStore,
    payloads: Payloads,
    *,
    collection: str,
    alias: str,
    encoder: TextEncoder,
    bm25: Bm25Encoder,
    progress: Progress,
    cache: EmbeddingCache | None = None,
    options: SyncOptions | None = None,
) -> SyncReport:
    """Bring `collection` to exactly `payloads`, verify it, then point `alias` to it.

    The store is closed while texts are embedded, so that in local mode other processes get their
    turn.

    Args:
        open_store: gives a store to enter.
        payloads: one a point.
        collection: created when missing.
        alias: left alone until the collection is complete and verified.
        encoder: makes the dense vectors.
        bm25: makes the sparse vectors.
        progress: counts the chunks whose vectors are made, and those that are written.
        cache: of dense vectors; without one, vectors last for this call only.
        options: layout, indexes and checks.

    Raises:
        VectorStoreError: too many points for local mode, the collection has vectors of another
            length, or another run changed it meanwhile.
        ArtifactCorruptError: two chunks have the same id.
    """
    with tempfile.TemporaryDirectory(prefix="vectors-") as folder:
        kept = cache or EmbeddingCache.open(None, Path(folder), encoder)
        report = _Sync(
            open_store=open_store,
            payloads=payloads,
            collection=collection,
            alias=alias,
            embedder=Embedder(encoder, kept),
            bm25=bm25,
            progress=progress,
            options=options or SyncOptions(),
        ).run()
        kept.compact()
    return report


@dataclass(frozen=True, kw_only=True)
class _Sync:
    """One synchronisation; see `sync_collection`."""

    open_store: OpenStore
    payloads: Payloads
    collection: str
    alias: str
    embedder: Embedder
    bm25: Bm25Encoder
    progress: Progress
    options: SyncOptions

    def run(self) -> SyncReport:
        wanted = digests_of(self.payloads)
        self._embed(self._missing(wanted))
        with self.open_store() as store:
            self._prepare(store)
            num_added, num_updated, num_deleted = self._write(store, wanted)
            verification = self._verify(store, wanted)
            store.set_content_mark(self.collection, wanted.sha256())
            store.wait_until_optimized(self.collection)
            num_deleted_collections = activate(
                store,
                self.alias,
                self.collection,
                self.options.artifact,
                keep_previous=self.options.keep_previous,
            )
        return SyncReport(
            num_points=len(wanted),
            num_added=num_added,
            num_embedded=self.embedder.num_embedded,
            num_updated=num_updated,
            num_deleted=num_deleted,
            num_deleted_collections=num_deleted_collections,
            points_sha256=wanted.sha256(),
            verification=verification,
        )

    def _missing(self, wanted: PointDigests) -> PointIds:
        with self.open_store() as store:
            if store.is_local and len(wanted) > self.options.local_point_limit:
                raise VectorStoreError(
                    f"The corpus has {len(wanted):,} chunks; Qdrant's local mode is meant for at "
                    f"most {self.options.local_point_limit:,}",
                    hint="Start a Qdrant server and set RAFTLINE_QDRANT_URL to its address.",
                )
            if not store.exists(self.collection):
                return wanted.ids
            self._check_dimension(store)
            return wanted.compare(store.digests(self.collection)).missing

    def _embed(self, missing: PointIds) -> None:
        if len(missing):
            with phase(self.progress, "Embedding", len(missing), "chunks"):
                texts = (payload["text"] for payload in self._payloads_in(missing))
                self.embedder.prepare(texts, self.progress.advance)

    def _prepare(self, store: VectorStore) -> None:
        if not store.exists(self.collection):
            store.create(self.collection, self.embedder.dimension, self.options.layout)
        indexes = self.options.payload_indexes
        store.ensure_payload_indexes(
            self.collection,
            dict.fromkeys(KEYWORD_FIELDS, "keyword") if indexes is None else indexes,
        )

    def _write(self, store: VectorStore, wanted: PointDigests) -> tuple[int, int, int]:
        """How many points were added, updated and deleted to come to `wanted`."""
        difference = wanted.compare(store.digests(self.collection))
        num_changes = sum(map(len, (difference.missing, difference.changed, difference.foreign)))
        if num_changes:
            store.set_content_mark(self.collection, None)
            with phase(self.progress, "Writing", num_changes, "chunks"):
                self._upsert(store, difference.missing)
                store.replace_payloads(self.collection, self._payloads_in(difference.changed))
                store.delete(self.collection, difference.foreign)
                self.progress.advance(len(difference.changed) + len(difference.foreign))
        return len(difference.missing), len(difference.changed), len(difference.foreign)

    def _upsert(self, store: VectorStore, ids: PointIds) -> None:
        if len(ids):
            store.upsert(self.collection, self._points(ids), self.options.upload_batch)

    def _verify(self, store: VectorStore, wanted: PointDigests) -> VerificationReport:
        """Verify; points that are there with other contents are written once more."""
        report = self._verify_settled(store, wanted)
        if report.has_wrong_contents:
            logger.warning("%s; writing all points again", report.describe())
            store.set_content_mark(self.collection, None)
            with phase(self.progress, "Writing", len(wanted), "chunks"):
                self._upsert(store, wanted.ids)
            report = self._verify_settled(store, wanted)
        report.require_clean()
        return report

    def _verify_settled(self, store: VectorStore, wanted: PointDigests) -> VerificationReport:
        """The last write was waited for; on a cluster, other shards may be a moment behind."""
        for attempt in range(_SETTLE_TRIES):
            if attempt:
                time.sleep(_SETTLE_SECONDS)
            report = verify_collection(
                store,
                self.collection,
                wanted,
                self.payloads,
                self.embedder,
                self.bm25,
                sample=self.options.verify_sample,
                seed=int(wanted.sha256()[:8], 16),
            )
            if store.is_local or not report.num_missing:
                break
        return report

    def _check_dimension(self, store: VectorStore) -> None:
        found = store.dense_dimension(self.collection)
        if found != self.embedder.dimension:
            raise VectorStoreError(
                f"The collection {self.collection} has "
                f"{'no dense vectors' if found is None else f'dense vectors of length {found}'}, "
                f"but the embedding model's have {self.embedder.dimension}",
                hint="It was not made by Raftline, or by a model that has changed since. Delete "
                "it, or give this pipeline another name; then run the index stage again.",
            )

    def _payloads_in(self, ids: PointIds) -> Iterator[Payload]:
        for window in batched(self.payloads.values(), POINT_WINDOW):
            inside = ids.contains([payload["chunk_id"] for payload in window])
            yield from (p for p, is_in in zip(window, inside, strict=True) if is_in)

    def _points(self, ids: PointIds) -> Iterator[PointStruct]:
        for window in batched(self._payloads_in(ids), POINT_WINDOW):
            texts = [payload["text"] for payload in window]
            dense, sparse = self.embedder.vectors(texts), self.bm25.encode_documents(texts)
            for payload, vector, terms in zip(window, dense, sparse, strict=True):
                yield _point(payload, vector, terms)
            self.progress.advance(len(window))


def _point(payload: Payload, dense: FloatMatrix, sparse: SparseVector) -> PointStruct:
    from qdrant_client.models import PointStruct

    vectors: dict[str, Any] = {DENSE: dense.tolist()}
    if sparse.indices:  # a text of stop words only has no BM25 vector, rather than an empty one
        vectors[BM25] = sparse
    return PointStruct(id=payload["chunk_id"], vector=vectors, payload=payload)
