"""Access to Qdrant, as a server or in local mode, with one interface and Raftline's errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import VectorStoreError
from pipeline_lib.retrieval.digests import PointDigests, PointId
from pipeline_lib.retrieval.embedder import batched
from pipeline_lib.retrieval.layout import CollectionLayout
from pipeline_lib.retrieval.schema import BM25, DENSE, DIGEST_FIELD
from pipeline_lib.retrieval.session import QdrantSession

if TYPE_CHECKING:
    from qdrant_client.http.models import QueryResponse
    from qdrant_client.models import (
        CollectionInfo,
        PayloadSchemaType,
        PointIdsList,
        PointStruct,
        QueryRequest,
        Record,
        ScoredPoint,
    )

logger = logging.getLogger(__name__)

WRITE_BATCH = 256
"""Points per write: some 10 kB each as JSON at 1,024 dimensions, against a limit of 32 MB."""
QUERY_BATCH = 64
SCROLL_BATCH = 5_000
READ_BATCH = 1_000
_OPTIMIZER_POLL_SECONDS = 1.0
_OPTIMIZER_TIMEOUT_SECONDS = 1_800.0
_CONTENT_KEY = "points_sha256"
CREATED_KEY = "created_at"
"""Key of a collection's metadata: when it was made, UTC."""
_ALREADY_THERE = "already exists"
"""In the words of every server and of local mode; their status codes differ."""


class VectorStore(QdrantSession):
    """The Qdrant that the settings name. Use it in one `with` block, and keep the block short.

    In local mode the block holds the folder against every other process; nested blocks and blocks
    in other threads of this process share it, and their calls take turns. A server is asked again
    when it is away, slow or throttling (`retry`).

    Args:
        settings: a server (`qdrant_url`) or local mode (`qdrant_path`).
        purpose: what this is for; others who wait for the folder get to read it.
        progress: is told when this has to wait.

    Raises:
        VectorStoreBusyError: (on entering) another process kept the local folder too long.
        VectorStoreUnavailableError: (any call) the server could not be reached or is overloaded.
        VectorStoreError: (any call) Qdrant refused.
        ConfigError: (on entering) the server's address or certificate file makes no sense.
    """

    # Collections

    def exists(self, collection: str) -> bool:
        """Whether there is such a collection."""
        return self._call(f"look for {collection}", lambda c: c.collection_exists(collection))

    def collections(self) -> list[str]:
        """The names of all collections."""
        found = self._call("list collections", lambda c: c.get_collections())
        return sorted(each.name for each in found.collections)

    def create(
        self, collection: str, dimension: int, layout: CollectionLayout | None = None
    ) -> None:
        """Make an empty collection with a dense and a BM25 vector per point, if there is none.

        One that is there already was made by another run, or by a try whose answer got lost: its
        name says that it is the one we want.
        """
        from qdrant_client import models

        layout = layout or CollectionLayout()
        server_only: dict[str, Any] = {}
        if not self.is_local:
            server_only["on_disk_payload"] = layout.on_disk
        # `on_disk` and `always_ram` are understood by every server; 1.19 prefers its new `memory`.
        dense = models.VectorParams(
            size=dimension,
            distance=models.Distance.COSINE,
            on_disk=layout.on_disk or None,
            quantization_config=_quantization(layout),
        )
        try:
            self._call(
                f"create {collection}",
                lambda c: c.create_collection(
                    collection,
                    vectors_config={DENSE: dense},
                    sparse_vectors_config={
                        BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)
                    },
                    metadata={CREATED_KEY: datetime.now(UTC).isoformat(timespec="seconds")},
                    **server_only,
                ),
            )
        except VectorStoreError as error:
            if _ALREADY_THERE not in error.message:
                raise

    def ensure_payload_indexes(self, collection: str, fields: Mapping[str, str]) -> None:
        """Make a server index payload fields (name to type) that it does not index yet.

        To be called before points arrive: later, an index has to be built over all of them. Local
        mode has none.
        """
        if self.is_local:
            return
        from qdrant_client.models import PayloadSchemaType

        present = self._describe(collection).payload_schema
        for field in sorted(fields.keys() - present.keys()):
            self._create_payload_index(collection, field, PayloadSchemaType(fields[field]))

    def dense_dimension(self, collection: str) -> int | None:
        """Length of the dense vectors, or `None` when the collection has none of ours."""
        vectors = self._describe(collection).config.params.vectors
        params = vectors.get(DENSE) if isinstance(vectors, dict) else None
        return None if params is None else int(params.size)

    def drop(self, collection: str) -> None:
        """Delete a collection with all its points; none is no error."""
        self._call(f"delete {collection}", lambda c: c.delete_collection(collection))

    def metadata(self, collection: str) -> dict[str, Any]:
        """What has been noted of a collection by `set_metadata`."""
        return dict(self._describe(collection).config.metadata or {})

    def set_metadata(self, collection: str, values: Mapping[str, str]) -> None:
        """Note something of a collection; other notes stay."""
        self._call(
            f"describe {collection}",
            lambda c: c.update_collection(collection, metadata=dict(values)),
        )

    def content_mark(self, collection: str) -> tuple[str | None, int]:
        """What `set_content_mark` last recorded, and the number of points there are."""
        mark = self.metadata(collection).get(_CONTENT_KEY) or None
        counted = self._call(f"count {collection}", lambda c: c.count(collection, exact=True))
        return mark, int(counted.count)

    def set_content_mark(self, collection: str, points_sha256: str | None) -> None:
        """Record in the collection's metadata which points it holds; `None`: it is changing."""
        # An empty text, as null in a request's JSON may get lost on its way.
        self.set_metadata(collection, {_CONTENT_KEY: points_sha256 or ""})

    def wait_until_optimized(self, collection: str) -> None:
        """Wait while a server builds its indexes, so that searches are neither slow nor partial.

        Raises:
            VectorStoreError: the server reports that building them failed.
        """
        from qdrant_client.models import CollectionStatus

        deadline = time.monotonic() + _OPTIMIZER_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            info = self._describe(collection)
            if info.status is CollectionStatus.RED:
                raise VectorStoreError(
                    f"Qdrant at {self.location} reports {collection} as broken: "
                    f"{info.optimizer_status}",
                    hint="Look into the server's log; it is often out of disk or memory.",
                )
            if info.status is not CollectionStatus.YELLOW:
                return
            time.sleep(_OPTIMIZER_POLL_SECONDS)
        logger.warning("%s is still being optimized; searches may be slow meanwhile", collection)

    # Aliases

    def aliases(self) -> dict[str, str]:
        """Alias to collection."""
        found = self._call("list aliases", lambda c: c.get_aliases()).aliases
        return {each.alias_name: each.collection_name for each in found}

    def point_alias(self, alias: str, collection: str) -> None:
        """Make `alias` lead to `collection`, in one step for whoever searches by it."""
        from qdrant_client import models

        create = models.CreateAliasOperation(
            create_alias=models.CreateAlias(alias_name=alias, collection_name=collection)
        )
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        operations: list[models.AliasOperations] = [create]
        if alias in self.aliases():
            operations.insert(0, delete)
        self._call(
            f"point the alias {alias} to {collection}",
            lambda c: c.update_collection_aliases(operations),
        )

    # Points

    def digests(self, collection: str) -> PointDigests:
        """Id and payload digest of every point."""
        return PointDigests.of(
            (_point_id(record), str((record.payload or {}).get(DIGEST_FIELD)))
            for record in self._scroll(collection)
        )

    def upsert(
        self, collection: str, points: Iterable[PointStruct], batch_size: int = WRITE_BATCH
    ) -> int:
        """Write points, whether new or there already, and return how many.

        Only the last request waits until its points, and so all before it, are searchable.
        """
        num_points = 0
        upcoming: list[PointStruct] = []
        for batch in batched(points, batch_size):
            if upcoming:
                self._write(collection, upcoming, wait=False)
            upcoming = batch
            num_points += len(batch)
        if upcoming:
            self._write(collection, upcoming, wait=True)
        return num_points

    def replace_payloads(self, collection: str, payloads: Iterable[dict[str, Any]]) -> int:
        """Give existing points other payloads, and return how many; their vectors stay."""
        from qdrant_client import models

        num_points = 0
        for batch in batched(payloads, WRITE_BATCH):
            self._update(
                collection,
                [
                    models.OverwritePayloadOperation(
                        overwrite_payload=models.SetPayload(
                            payload=payload, points=[payload["chunk_id"]]
                        )
                    )
                    for payload in batch
                ],
            )
            num_points += len(batch)
        return num_points

    def delete(self, collection: str, points: Iterable[PointId]) -> None:
        """Remove points by id; ids that are not there are ignored."""
        from qdrant_client import models

        for batch in batched(points, READ_BATCH):
            self._delete(collection, models.PointIdsList(points=list(batch)))

    def query(self, collection: str, requests: Sequence[QueryRequest]) -> list[list[ScoredPoint]]:
        """The points found for each request, best first."""
        found: list[list[ScoredPoint]] = []
        for batch in batched(requests, QUERY_BATCH):
            found.extend(answer.points for answer in self._query(collection, batch))
        return found

    def payloads(self, collection: str, points: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Point id to payload, for those of `points` that exist."""
        return {
            str(record.id): record.payload or {}
            for record in self.read(collection, points, with_vectors=False)
        }

    def read(
        self, collection: str, points: Iterable[PointId], *, with_vectors: bool
    ) -> Iterator[Record]:
        """Those of `points` that exist, with their payloads."""
        for batch in batched(points, READ_BATCH):
            yield from self._retrieve(collection, batch, with_vectors)

    # One request each

    def _describe(self, collection: str) -> CollectionInfo:
        return self._call(f"describe {collection}", lambda c: c.get_collection(collection))

    def _create_payload_index(self, collection: str, field: str, schema: PayloadSchemaType) -> None:
        self._call(
            f"index {field} of {collection}",
            lambda c: c.create_payload_index(collection, field, schema, wait=False),
        )

    def _write(self, collection: str, points: list[PointStruct], *, wait: bool) -> None:
        self._call(f"write to {collection}", lambda c: c.upsert(collection, points, wait=wait))

    def _update(self, collection: str, operations: list[Any]) -> None:
        self._call(
            f"update payloads in {collection}",
            lambda c: c.batch_update_points(collection, operations, wait=True),
        )

    def _delete(self, collection: str, points: PointIdsList) -> None:
        self._call(
            f"drop points of {collection}", lambda c: c.delete(collection, points, wait=True)
        )

    def _query(self, collection: str, requests: list[QueryRequest]) -> list[QueryResponse]:
        return self._call(
            f"search {collection}", lambda c: c.query_batch_points(collection, requests)
        )

    def _retrieve(self, collection: str, points: list[PointId], with_vectors: bool) -> list[Record]:
        return self._call(
            f"read from {collection}",
            lambda c: c.retrieve(collection, points, with_payload=True, with_vectors=with_vectors),
        )

    def _scroll(self, collection: str) -> Iterator[Record]:
        offset: Any = None
        while True:
            records, offset = self._scroll_from(collection, offset)
            yield from records
            if offset is None:
                return

    def _scroll_from(self, collection: str, offset: Any) -> tuple[list[Record], Any]:
        return self._call(
            f"list the points of {collection}",
            lambda c: c.scroll(
                collection,
                limit=SCROLL_BATCH,
                offset=offset,
                with_payload=[DIGEST_FIELD],
                with_vectors=False,
            ),
        )


def _point_id(record: Record) -> PointId:
    return record.id if isinstance(record.id, int) else str(record.id)


def _quantization(layout: CollectionLayout) -> Any:
    from qdrant_client import models

    if layout.quantization == "none":
        return None
    return models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(
            type=models.ScalarType.INT8, quantile=0.99, always_ram=True
        )
    )
