"""A session with Qdrant: the folder or the connection it holds, and how calls are made in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit

from pipeline_lib.progress import NullProgress, Progress
from pipeline_lib.retrieval.connection import connect
from pipeline_lib.retrieval.local_mode import LocalFolder, local_folder
from pipeline_lib.retrieval.qdrant_errors import translated_errors
from pipeline_lib.retrieval.retry import retried
from pipeline_lib.settings import Settings

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_T = TypeVar("_T")


class QdrantSession:
    """The Qdrant that the settings name, while a `with` block lasts; see `VectorStore`."""

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
            self._client = connect(self._settings)
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

    def _call(self, doing: str, call: Callable[[QdrantClient], _T]) -> _T:
        """Call the client: one call at a time in local mode, again and again on a server.

        Args:
            doing: what the call does, for messages ("search demo__1a2b").
            call: may be made more than once.
        """
        client = self._client
        if client is None:
            raise RuntimeError("VectorStore is used outside its with block")
        turn: AbstractContextManager[object] = (
            nullcontext() if self._folder is None else self._folder.calls
        )

        def once() -> _T:
            with turn, translated_errors(doing, self.location):
                return call(client)

        return once() if self.is_local else retried(once, self._settings.qdrant_max_retries)
