"""Everything a teacher ever wrote, kept in S3 by what it was asked: no token is paid twice.

Neither in another run, after a crash, in another dataset, nor on another machine. Layout, below
the store's prefix:

    _completions/<space>/space.json          whose the words are, for people
    _completions/<space>/<sha256>.jsonl.gz   a segment: key and completion (or score) a line

A **space** is the hash of a model's identity; a key is `completion_key`. A **segment** is immutable
and named by the hash of its bytes: it is there as a whole or not at all, writers never meet, and
what is damaged does not fit its name. Where two segments disagree about a key, the value that sorts
first counts.

Results are written by a thread in group commits: a segment is on its way as soon as the one before
it has arrived and something waits, but not more than ten a second. So a crash takes what came in
during one request. The thread merges these small segments into ones of `SEGMENT_BYTES`; closing
merges what is left. Who merges deletes only what another segment holds by then, so this may happen
in several processes at once.

A local database (`CompletionCache`) holds what was read and written; what the store no longer has
is not found there either.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.errors import ObjectNotFoundError, RaftlineError, StoreError
from pipeline_lib.generation.completion_cache import CompletionCache
from pipeline_lib.generation.completion_segments import (
    BadSegmentError,
    Result,
    decode_result,
    decode_segment,
    encode_result,
    encode_segment,
    is_segment,
)
from pipeline_lib.generation.group_commit import GroupCommit

logger = logging.getLogger(__name__)

ROOT = "_completions"
SEGMENT_BYTES = 4 * 1024 * 1024
"""Encoded results, before compression, that small segments are merged up to."""
SMALL_SEGMENTS = 16
"""How many small segments of interrupted or little runs may stand before they are merged."""
_SMALL_BYTES = 128 * 1024
"""Below this, compressed, a segment is small."""
_SPACE_LENGTH = 32
_SPACE_FILE = "space.json"
_FETCHED_AT_ONCE = 8
_MOST_LOOKS = 5
"""A segment that is gone once it is fetched was merged by somebody else: look for the new one."""

_T = TypeVar("_T")


def space_of(identity: str) -> str:
    """Where the words of a model are kept."""
    return hashlib.sha256(identity.encode()).hexdigest()[:_SPACE_LENGTH]


class CompletionStore:
    """The completions and scores of one model; a context manager.

    Methods may be called from one thread at a time.

    Args:
        objects: the store that keeps them.
        cache_folder: for the local database; may be deleted at any time.
        identity: of the model.

    Raises:
        StoreError: what is there cannot be listed or read.
    """

    def __init__(self, objects: ObjectStore, cache_folder: Path, identity: str) -> None:
        self._objects = objects
        self._identity = identity
        self._root = f"{ROOT}/{space_of(identity)}/"
        self._cache = CompletionCache(cache_folder, space_of(identity))
        self._cache_lock = threading.RLock()
        self._tail: dict[str, bytes] = {}
        self._tail_names: list[str] = []
        self._damaged: set[str] = set()
        self._has_space_file = False
        self._commits = GroupCommit(self._commit, name="completions")
        try:
            self._cached(lambda _cache: None, is_stale=True)
        except RaftlineError:
            self._cache.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except RaftlineError as problem:
            if error is None:
                raise
            logger.warning("The last completions may not have been kept: %s", problem)

    def get_many(self, keys: Sequence[str]) -> dict[str, Result]:
        """The results under those keys that there are, those just added included."""
        found = self._commits.pending(keys)
        rest = [key for key in dict.fromkeys(keys) if key not in found]
        found |= self._cached(lambda cache: cache.get_many(rest))
        return {key: decode_result(found[key]) for key in keys if key in found}

    def add(self, items: Mapping[str, Result]) -> None:
        """Keep results; items that are added together stay together whatever happens.

        Returns before they are in S3, unless very much is waiting.

        Raises:
            StoreError: what was added before could not be written; it is tried again next time.
        """
        self._commits.add({key: encode_result(result) for key, result in items.items()})

    def flush(self) -> None:
        """Wait until everything that was added is in S3.

        Raises:
            StoreError: it could not be written.
        """
        self._commits.flush()

    def close(self) -> None:
        """Flush, merge small segments, and let go of the database."""
        try:
            self._commits.close()
            self._merge_tail()
            self._compact()
        finally:
            self._cache.close()

    def _commit(self, items: Mapping[str, bytes]) -> None:
        """Make a segment of what waits; called in the writing thread."""
        self._write_space_file()
        self._tail_names.append(self._write(items))
        self._tail.update(items)
        if sum(map(len, self._tail.values())) >= SEGMENT_BYTES:
            self._merge_tail()

    def _write(self, items: Mapping[str, bytes], *, replaces: Collection[str] = ()) -> str:
        name, data = encode_segment(items)
        self._objects.put_bytes(self._root + name, data)
        gone = [other for other in replaces if other != name]
        self._cached(lambda cache: cache.put_segment(name, items, replaces=gone))
        if gone:
            self._delete(gone)
        return name

    def _delete(self, names: Iterable[str]) -> None:
        try:
            self._objects.delete(self._root + name for name in names)
        except StoreError as error:
            # They only take room: what they hold is in the segment that replaces them.
            logger.warning("Merged segments of completions could not be deleted: %s", error)

    def _merge_tail(self) -> None:
        """Replace the small segments of this run by one."""
        if len(self._tail_names) > 1:
            self._write(self._tail, replaces=self._tail_names)
        self._tail, self._tail_names = {}, []

    def _compact(self) -> None:
        """Merge what interrupted and little runs left behind, once it is many."""
        small = [name for name, size in self._list().items() if size < _SMALL_BYTES]
        if len(small) <= SMALL_SEGMENTS:
            return
        merged: dict[str, bytes] = {}
        names: list[str] = []
        for name, items in self._fetch(small):
            for key, value in items.items():
                merged[key] = min(value, merged.get(key, value))
            names.append(name)
            if sum(map(len, merged.values())) >= SEGMENT_BYTES:
                self._write(merged, replaces=names)
                merged, names = {}, []
        if len(names) > 1:
            self._write(merged, replaces=names)

    def _cached(self, action: Callable[[CompletionCache], _T], *, is_stale: bool = False) -> _T:
        """Use the local database; where it fails, a new one, and last a private one.

        Args:
            action: what to do with it.
            is_stale: whether to look first what is in S3.
        """
        problem: Exception | None = None
        with self._cache_lock:
            for repair in (None, self._cache.start_anew, self._cache.go_private):
                try:
                    if repair is not None:
                        repair()
                    if repair is not None or is_stale:
                        self._refresh()
                    return action(self._cache)
                except (sqlite3.Error, OSError) as error:
                    logger.warning("%s cannot be used: %s", self._cache.path, error)
                    problem = error
        raise StoreError(
            f"No database of completions could be opened, neither in {self._cache.path.parent} "
            f"nor among temporary files: {problem}",
            hint="Is the disk full?",
        ) from problem

    def _refresh(self) -> None:
        """Bring the local database to what is in S3."""
        for _ in range(_MOST_LOOKS):
            listed = self._list()
            known = self._cache.segments()
            self._cache.forget(known - listed.keys())
            missing = sorted(listed.keys() - known)
            if not missing:
                return
            for name, items in self._fetch(missing):
                self._cache.put_segment(name, items)

    def _list(self) -> dict[str, int]:
        """Size in bytes of every segment that can be read."""
        found = {info.key.removeprefix(self._root): info for info in self._objects.scan(self._root)}
        self._has_space_file = _SPACE_FILE in found
        return {
            name: info.size_bytes
            for name, info in found.items()
            if is_segment(name) and name not in self._damaged
        }

    def _fetch(self, names: Sequence[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Segments by name; without those that are damaged, or merged meanwhile."""
        with ThreadPoolExecutor(_FETCHED_AT_ONCE, thread_name_prefix="completions") as pool:
            for start in range(0, len(names), _FETCHED_AT_ONCE):
                part = names[start : start + _FETCHED_AT_ONCE]
                for name, items in zip(part, pool.map(self._read, part), strict=True):
                    if items is not None:
                        yield name, items

    def _read(self, name: str) -> dict[str, bytes] | None:
        try:
            return decode_segment(name, self._objects.get_bytes(self._root + name))
        except ObjectNotFoundError:
            return None
        except BadSegmentError as error:
            logger.warning("Ignoring %s: %s", self._objects.uri(self._root + name), error)
            self._damaged.add(name)
            return None

    def _write_space_file(self) -> None:
        if not self._has_space_file:
            self._objects.put_bytes(
                self._root + _SPACE_FILE, canonical_json({"model": self._identity})
            )
            self._has_space_file = True
