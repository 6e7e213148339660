"""Qdrant's local mode, made safe: one process, one client, and one call at a time.

Three facts of local mode shape this module. A folder opened by a second client, even in the same
process, is refused; calls from several threads at once lose data; and opening reads everything
(about 0.2 s per 1,000 points), so a folder is neither kept open nor opened for nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pipeline_lib.errors import VectorStoreBusyError, VectorStoreError
from pipeline_lib.progress import Progress
from pipeline_lib.retrieval.qdrant_errors import LOCAL_STORAGE_ERRORS

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_SERVER_HINT = "Set RAFTLINE_QDRANT_URL to a Qdrant server to work from several processes at once."


class LocalFolder:
    """One folder of local mode, as this process uses it. Get it by `local_folder`.

    The first user takes the folder's lock and opens the client, further users (nested calls, other
    threads) share it, and the last one to leave closes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls = threading.RLock()
        """To be held during every call on the client."""
        self._gate = threading.Lock()
        self._client: QdrantClient | None = None
        self._num_users = 0
        # Taken by whichever thread comes first and let go by whichever leaves last.
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), thread_local=False)
        self._holder = path.with_name(f"{path.name}.holder")

    def enter(self, purpose: str, timeout_seconds: float, progress: Progress) -> QdrantClient:
        """Become a user of the folder; waits while another process has it.

        Args:
            purpose: why, for those who wait for us and for the message when we wait.
            timeout_seconds: how long to wait at most.
            progress: is told when waiting begins.

        Raises:
            VectorStoreBusyError: the wait took too long.
            VectorStoreError: the folder's content cannot be read.
        """
        deadline = time.monotonic() + timeout_seconds
        if not self._gate.acquire(timeout=timeout_seconds):
            raise self._busy(purpose, timeout_seconds)
        try:
            if self._client is None:
                self._client = self._open(purpose, timeout_seconds, deadline, progress)
            self._num_users += 1
            return self._client
        finally:
            self._gate.release()

    def leave(self) -> None:
        """Stop being a user; the last one closes the client and frees the folder."""
        with self._gate:
            self._num_users -= 1
            if self._num_users == 0 and self._client is not None:
                client, self._client = self._client, None
                try:
                    client.close()
                finally:
                    self._unlock()

    def _open(
        self, purpose: str, timeout_seconds: float, deadline: float, progress: Progress
    ) -> QdrantClient:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        has_told = False
        while True:
            client = self._try_open(purpose)
            if client is not None:
                return client
            if not has_told:
                note = f"{purpose} waits for {self.path}, held by {self._describe_holder()}"
                logger.warning(note)
                progress.note(note)
                has_told = True
            if time.monotonic() >= deadline:
                raise self._busy(purpose, timeout_seconds)
            time.sleep(_POLL_SECONDS)

    def _try_open(self, purpose: str) -> QdrantClient | None:
        """A client, or `None` while another process has the folder."""
        from qdrant_client import QdrantClient

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return None
        try:
            self._holder.write_text(f"process {os.getpid()} ({purpose})", encoding="utf-8")
            # Calls come one at a time (`calls`), but not always from the thread that opened.
            return QdrantClient(path=str(self.path), force_disable_check_same_thread=True)
        except BaseException as error:
            self._unlock()
            if isinstance(error, RuntimeError) and "already accessed" in str(error):
                return None  # by a client that is not ours and does not know our lock
            if isinstance(error, LOCAL_STORAGE_ERRORS):
                raise VectorStoreError(
                    f"Qdrant's local folder {self.path} cannot be opened: {error}",
                    hint="If its files are damaged, move the folder away and run the index stage "
                    "again: the corpus artifact has all it needs.",
                ) from error
            raise

    def _unlock(self) -> None:
        self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _describe_holder(self) -> str:
        try:
            return self._holder.read_text(encoding="utf-8")
        except OSError:
            return "another program"

    def _busy(self, purpose: str, waited_seconds: float) -> VectorStoreBusyError:
        return VectorStoreBusyError(
            f"{purpose} waited {waited_seconds:g} s for Qdrant's local folder {self.path}, "
            f"held by {self._describe_holder()}: local mode serves one process at a time",
            hint=_SERVER_HINT,
        )


_folders: dict[Path, LocalFolder] = {}
_folders_lock = threading.Lock()


def local_folder(path: Path) -> LocalFolder:
    """This process's one `LocalFolder` for `path`."""
    path = path.resolve()
    with _folders_lock:
        return _folders.setdefault(path, LocalFolder(path))
