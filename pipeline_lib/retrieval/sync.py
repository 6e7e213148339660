"""Makes a Qdrant collection hold exactly a corpus' chunks, embedding only what is new."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import VectorStoreError
from pipeline_lib.progress import Progress, phase
from pipeline_lib.retrieval.dense import FloatMatrix, TextEncoder
from pipeline_lib.retrieval.schema import BM25, DENSE, DIGEST_FIELD, points_digest
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore, batches

if TYPE_CHECKING:
    from qdrant_client.models import PointStruct, SparseVector

LOCAL_POINT_LIMIT = 20_000
"""Most points in local mode, whose searches read every one of them in Python."""
EMBED_WINDOW = 1_024
"""Chunks embedded before they are written: what a crash can cost."""

OpenStore = Callable[[], VectorStore]
Payloads = Mapping[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What a synchronisation did, in points."""

    num_points: int
    num_embedded: int
    num_updated: int
    """Same text, other payload (a title, an offset): vectors kept."""
    num_deleted: int
    points_sha256: str

    @property
    def num_unchanged(self) -> int:
        """Points that were there already, as they should be."""
        return self.num_points - self.num_embedded - self.num_updated


def sync_collection(
    open_store: OpenStore,
    payloads: Payloads,
    *,
    collection: str,
    alias: str,
    encoder: TextEncoder,
    bm25: Bm25Encoder,
    progress: Progress,
    local_point_limit: int = LOCAL_POINT_LIMIT,
) -> SyncReport:
    """Bring `collection` to exactly `payloads`, verify it, then point `alias` to it.

    Embeds and writes points whose id is not there, rewrites changed payloads, deletes the rest.
    Ended at any moment and started again, it goes on where it was: what was written is not
    embedded again. The store is closed while texts are embedded, so that in local mode other
    processes get their turn.

    Args:
        open_store: gives a store to enter.
        payloads: point id to payload (`schema.payloads_of`).
        collection: created when missing.
        alias: left alone until the collection is complete.
        encoder: makes the dense vectors.
        bm25: makes the sparse vectors.
        progress: counts the chunks that are embedded and written.
        local_point_limit: most points in local mode.

    Raises:
        VectorStoreError: too many points for local mode, or another run changed the collection
            meanwhile.
    """
    with open_store() as store:
        _refuse_too_many(store, len(payloads), local_point_limit)
        present = store.digests(collection) if store.exists(collection) else {}
    missing = [point for point in payloads if point not in present]
    if missing:
        _embed_and_write(
            open_store, collection, {p: payloads[p] for p in missing}, encoder, bm25, progress
        )
    wanted = {point: payload[DIGEST_FIELD] for point, payload in payloads.items()}
    with open_store() as store:
        num_updated, num_deleted = _drop_and_update(store, collection, payloads, wanted)
        points_sha256 = points_digest(wanted)
        _verify(store, collection, wanted)
        store.set_content_mark(collection, points_sha256)
        store.wait_until_optimized(collection)
        store.point_alias(alias, collection)
    return SyncReport(
        num_points=len(payloads),
        num_embedded=len(missing),
        num_updated=num_updated,
        num_deleted=num_deleted,
        points_sha256=points_sha256,
    )


def _refuse_too_many(store: VectorStore, num_points: int, limit: int) -> None:
    if store.is_local and num_points > limit:
        raise VectorStoreError(
            f"The corpus has {num_points:,} chunks; Qdrant's local mode is meant for at most "
            f"{limit:,}",
            hint="Start a Qdrant server and set RAFTLINE_QDRANT_URL to its address.",
        )


def _embed_and_write(
    open_store: OpenStore,
    collection: str,
    payloads: Payloads,
    encoder: TextEncoder,
    bm25: Bm25Encoder,
    progress: Progress,
) -> None:
    ids = list(payloads)
    with phase(progress, "Embedding", len(ids), "chunks"):
        dimension = encoder.dimension
        for window in batches(ids, EMBED_WINDOW):
            texts = [payloads[point]["text"] for point in window]
            dense = encoder.encode_documents(texts, progress.advance)
            sparse = bm25.encode_documents(texts)
            points = [
                _point(point, payloads[point], dense, row, sparse[row])
                for row, point in enumerate(window)
            ]
            with open_store() as store:
                if not store.exists(collection):
                    store.create(collection, dimension)
                store.set_content_mark(collection, None)
                store.upsert(collection, points)


def _point(
    point: str, payload: dict[str, Any], dense: FloatMatrix, row: int, sparse: SparseVector
) -> PointStruct:
    from qdrant_client.models import PointStruct

    vectors: dict[str, Any] = {DENSE: dense[row].tolist()}
    if sparse.indices:  # a text of stop words only has no BM25 vector, rather than an empty one
        vectors[BM25] = sparse
    return PointStruct(id=point, vector=vectors, payload=payload)


def _drop_and_update(
    store: VectorStore, collection: str, payloads: Payloads, wanted: Mapping[str, str]
) -> tuple[int, int]:
    """Rewrite changed payloads and delete points that are not wanted; how many of each."""
    present = store.digests(collection)
    changed = [p for p, digest in wanted.items() if p in present and present[p] != digest]
    vanished = [point for point in present if point not in wanted]
    if changed or vanished:
        store.set_content_mark(collection, None)
        store.replace_payloads(collection, {point: payloads[point] for point in changed})
        store.delete(collection, vanished)
    return len(changed), len(vanished)


def _verify(store: VectorStore, collection: str, wanted: Mapping[str, str]) -> None:
    present = store.digests(collection)
    if present != wanted:
        num_missing = len(wanted.keys() - present.keys())
        num_foreign = len(present.keys() - wanted.keys())
        raise VectorStoreError(
            f"{collection} is not what was written: of {len(wanted)} points {num_missing} are "
            f"missing, and {num_foreign} are not ours",
            hint="Another run of the same name has changed it meanwhile. Run one at a time, or "
            "give them different names; then run the index stage again.",
        )
