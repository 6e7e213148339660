"""A bounded folder of local copies: what must lie on disk to be read at random.

Entries are named by what they hold (a SHA-256 and a suffix), so processes and runs share them and
none is ever stale. The least recently used go first. An entry that another process removes while
it is open stays readable until it is closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

_MAX_BYTES = 20 * 1000**3
_UNFINISHED = ".part"
_ABANDONED_SECONDS = 24 * 3600.0
"""A file that nobody has written to for so long is left over from a process that was killed."""


@dataclass(frozen=True)
class Spooled:
    """A temporary file and the hash of its content."""

    path: Path
    sha256: str


class LocalCache:
    """Files under one folder, at most `max_bytes` of them beside the one in use."""

    def __init__(self, folder: Path, max_bytes: int = _MAX_BYTES) -> None:
        self.folder = folder
        self._max_bytes = max_bytes

    def file(self, name: str, fill: Callable[[Path], None]) -> Path:
        """The entry `name`; `fill` writes it first when it is not there.

        One process fills an entry at a time; others wait for it.
        """
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{name}.lock"):
                if not path.exists():
                    self._fill(path, fill)
            (self.folder / f"{name}.lock").unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # the time of last use
        return path

    def adopt(self, source: Path, name: str) -> Path:
        """Move a finished file into the cache, or delete it when the cache has its like."""
        path = self.file(name, lambda unfinished: _move(source, unfinished))
        source.unlink(missing_ok=True)
        return path

    def spool(self, blocks: Iterable[bytes]) -> Spooled:
        """Write blocks to a temporary file, which is the caller's to adopt or delete."""
        path, digest = self._new_file(), hashlib.sha256()
        try:
            with path.open("wb") as out:
                for block in blocks:
                    digest.update(block)
                    out.write(block)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Spooled(path, digest.hexdigest())

    def _new_file(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{uuid.uuid4().hex}{_UNFINISHED}"

    def _fill(self, path: Path, fill: Callable[[Path], None]) -> None:
        unfinished = self._new_file()
        try:
            fill(unfinished)
            self._make_room(unfinished.stat().st_size)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _make_room(self, size_bytes: int) -> None:
        entries = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                age_seconds = time.time() - status.st_mtime
                if path.suffix == _UNFINISHED and age_seconds > _ABANDONED_SECONDS:
                    path.unlink()
                if path.suffix in (_UNFINISHED, ".lock"):
                    continue
                entries.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in entries) + size_bytes - self._max_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def _move(source: Path, target: Path) -> None:
    source.replace(target)
