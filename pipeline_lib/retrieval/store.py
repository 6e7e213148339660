"""Access to Qdrant, as a server or in local mode, with one interface and Raftline's errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from pipeline_lib.errors import ConfigError, VectorStoreError
from pipeline_lib.progress import NullProgress, Progress
from pipeline_lib.retrieval.local_mode import LocalFolder, local_folder
from pipeline_lib.retrieval.qdrant_errors import translated_errors
from pipeline_lib.retrieval.schema import BM25, DENSE, DIGEST_FIELD
from pipeline_lib.settings import Settings

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import PointStruct, QueryRequest, ScoredPoint

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

REQUEST_TIMEOUT_SECONDS = 60
WRITE_BATCH = 128
"""Points per write: some 10 kB each as JSON at 1,024 dimensions, against a limit of 32 MB."""
QUERY_BATCH = 64
SCROLL_BATCH = 5_000
_OPTIMIZER_POLL_SECONDS = 1.0
_OPTIMIZER_TIMEOUT_SECONDS = 1_800.0
_CONTENT_KEY = "points_sha256"


class VectorStore:
    """The Qdrant that the settings name. Use it in one `with` block, and keep the block short.

    In local mode the block holds the folder against every other process; nested blocks and blocks
    in other threads of this process share it, and their calls take turns.

    Args:
        settings: a server (`qdrant_url`) or local mode (`qdrant_path`).
        purpose: what this is for; others who wait for the folder get to read it.
        progress: is told when this has to wait.

    Raises:
        VectorStoreBusyError: (on entering) another process kept the local folder too long.
        VectorStoreUnavailableError: (any call) the server could not be reached or is overloaded.
        VectorStoreError: (any call) Qdrant refused.
        ConfigError: (on entering) the server's address makes no sense.
    """

    def __init__(self, settings: Settings, purpose: str, progress: Progress | None = None) -> None:
        self._settings = settings
        self._purpose = purpose
        self._progress = progress or NullProgress()
        self._folder: LocalFolder | None = None
        if not settings.qdrant_url:
            self._folder = local_folder(settings.qdrant_path)
        self._client: QdrantClient | None = None

    @property
    def is_local(self) -> bool:
        """Whether this is local mode."""
        return self._folder is not None

    @property
    def location(self) -> str:
        """The folder, or the server's host and port; never credentials."""
        if self._folder is not None:
            return str(self._folder.path)
        parts = urlsplit(self._settings.qdrant_url or "")
        return parts.netloc.rpartition("@")[2] or parts.path

    def __enter__(self) -> Self:
        if self._folder is None:
            self._client = self._connect()
        else:
            self._client = self._folder.enter(
                self._purpose, self._settings.qdrant_lock_timeout_seconds, self._progress
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client, self._client = self._client, None
        if self._folder is not None:
            self._folder.leave()
        elif client is not None:
            client.close()

    def exists(self, collection: str) -> bool:
        """Whether there is such a collection."""
        with self._calling(f"look for {collection}") as client:
            return client.collection_exists(collection)

    def create(self, collection: str, dimension: int) -> None:
        """Make an empty collection with a dense and a BM25 vector per point.

        A server gets an index on `document_id` before any point arrives, as it would otherwise
        have to be built over all of them; local mode has no payload indexes.
        """
        from qdrant_client import models

        with self._calling(f"create {collection}") as client:
            client.create_collection(
                collection,
                vectors_config={
                    DENSE: models.VectorParams(size=dimension, distance=models.Distance.COSINE)
                },
                sparse_vectors_config={
                    BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)
                },
            )
            if not self.is_local:
                client.create_payload_index(
                    collection, "document_id", models.PayloadSchemaType.KEYWORD, wait=True
                )

    def digests(self, collection: str) -> dict[str, str]:
        """Point id to payload digest, for every point."""
        digests: dict[str, str] = {}
        offset: Any = None
        while True:
            with self._calling(f"list the points of {collection}") as client:
                records, offset = client.scroll(
                    collection,
                    limit=SCROLL_BATCH,
                    offset=offset,
                    with_payload=[DIGEST_FIELD],
                    with_vectors=False,
                )
            for record in records:
                digests[str(record.id)] = str((record.payload or {}).get(DIGEST_FIELD))
            if offset is None:
                return digests

    def upsert(self, collection: str, points: Sequence[PointStruct]) -> None:
        """Write points, whether new or there already; returns when they are searchable."""
        for batch in batches(points, WRITE_BATCH):
            with self._calling(f"write to {collection}") as client:
                client.upsert(collection, list(batch), wait=True)

    def replace_payloads(self, collection: str, payloads: Mapping[str, dict[str, Any]]) -> None:
        """Give existing points other payloads; their vectors stay."""
        from qdrant_client import models

        for batch in batches(list(payloads), WRITE_BATCH):
            operations = [
                models.OverwritePayloadOperation(
                    overwrite_payload=models.SetPayload(payload=payloads[point], points=[point])
                )
                for point in batch
            ]
            with self._calling(f"update payloads in {collection}") as client:
                client.batch_update_points(collection, operations, wait=True)

    def delete(self, collection: str, points: Sequence[str]) -> None:
        """Remove points by id; ids that are not there are ignored."""
        from qdrant_client import models

        for batch in batches(points, SCROLL_BATCH):
            with self._calling(f"drop points of {collection}") as client:
                client.delete(collection, models.PointIdsList(points=list(batch)), wait=True)

    def query(self, collection: str, requests: Sequence[QueryRequest]) -> list[list[ScoredPoint]]:
        """The points found for each request, best first."""
        found: list[list[ScoredPoint]] = []
        for batch in batches(requests, QUERY_BATCH):
            with self._calling(f"search {collection}") as client:
                answers = client.query_batch_points(collection, list(batch))
            found.extend(answer.points for answer in answers)
        return found

    def payloads(self, collection: str, points: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Point id to payload, for those of `points` that exist."""
        payloads: dict[str, dict[str, Any]] = {}
        for batch in batches(points, SCROLL_BATCH):
            with self._calling(f"read from {collection}") as client:
                records = client.retrieve(
                    collection, list(batch), with_payload=True, with_vectors=False
                )
            payloads.update((str(record.id), record.payload or {}) for record in records)
        return payloads

    def content_mark(self, collection: str) -> tuple[str | None, int]:
        """What `set_content_mark` last recorded, and the number of points there are."""
        with self._calling(f"describe {collection}") as client:
            metadata = client.get_collection(collection).config.metadata or {}
            num_points = client.count(collection, exact=True).count
        return metadata.get(_CONTENT_KEY) or None, num_points

    def set_content_mark(self, collection: str, points_sha256: str | None) -> None:
        """Record in the collection's metadata which points it holds; `None`: it is changing."""
        with self._calling(f"describe {collection}") as client:
            # An empty text, as null in a request's JSON may get lost on its way.
            client.update_collection(collection, metadata={_CONTENT_KEY: points_sha256 or ""})

    def wait_until_optimized(self, collection: str) -> None:
        """Wait while a server builds its indexes, so that searches are neither slow nor partial.

        Raises:
            VectorStoreError: the server reports that building them failed.
        """
        from qdrant_client.models import CollectionStatus

        deadline = time.monotonic() + _OPTIMIZER_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            with self._calling(f"describe {collection}") as client:
                info = client.get_collection(collection)
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

    def point_alias(self, alias: str, collection: str) -> None:
        """Make `alias` lead to `collection`, in one step for whoever searches by it."""
        from qdrant_client import models

        operations: list[models.AliasOperations] = [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)),
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(alias_name=alias, collection_name=collection)
            ),
        ]
        with self._calling(f"point the alias {alias} to {collection}") as client:
            client.update_collection_aliases(operations)

    def aliases(self) -> dict[str, str]:
        """Alias to collection."""
        with self._calling("list aliases") as client:
            found = client.get_aliases().aliases
        return {each.alias_name: each.collection_name for each in found}

    @contextmanager
    def _calling(self, doing: str) -> Iterator[QdrantClient]:
        if self._client is None:
            raise RuntimeError("VectorStore is used outside its with block")
        turn: AbstractContextManager[object] = (
            nullcontext() if self._folder is None else self._folder.calls
        )
        with turn, translated_errors(doing, self.location):
            yield self._client

    def _connect(self) -> QdrantClient:
        from qdrant_client import QdrantClient

        key = self._settings.qdrant_api_key
        try:
            return QdrantClient(
                url=self._settings.qdrant_url,
                api_key=key.get_secret_value() if key is not None else None,
                prefer_grpc=self._settings.qdrant_prefer_grpc,
                timeout=REQUEST_TIMEOUT_SECONDS,
                # The check runs in a thread of its own and can only warn; a version that does not
                # fit shows in the first call.
                check_compatibility=False,
            )
        except ValueError as error:
            raise ConfigError(
                f"RAFTLINE_QDRANT_URL does not lead to a Qdrant server: {error}",
                hint="Write it like https://qdrant.example:6333, or unset it for local mode.",
            ) from error


def batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Consecutive slices of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
