"""Reading an input again, in any process on any machine, from nothing but its locator."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipeline_lib.artifacts.object_store import ObjectStore, sha256_file
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.sources.archives import ARCHIVE_ERRORS
from pipeline_lib.corpus.sources.base import Locator, SourceInput
from pipeline_lib.corpus.sources.buckets import SourceBuckets
from pipeline_lib.corpus.sources.cache import LocalCache
from pipeline_lib.corpus.sources.compression import BLOCK_BYTES, decompressed_blocks
from pipeline_lib.corpus.sources.examining import unpacked_name
from pipeline_lib.corpus.sources.locators import (
    CompressedLocator,
    FetchedLocator,
    FileLocator,
    LinesLocator,
    ObjectLocator,
    RowsLocator,
    SampleLocator,
    TarMemberLocator,
    ZipMemberLocator,
)
from pipeline_lib.corpus.sources.records import row_lines
from pipeline_lib.corpus.sources.sample import sample_page
from pipeline_lib.corpus.sources.tables import open_table
from pipeline_lib.errors import InputError, ObjectNotFoundError
from pipeline_lib.settings import Settings

FETCHED_PREFIX = "_fetched/"
"""Where the bodies of URLs lie in the artifact store, by their SHA-256."""


def source_cache(settings: Settings) -> LocalCache:
    """Local copies of archives and records files that are not plain files on this machine."""
    return LocalCache(settings.scratch / "sources")


class InputReader:
    """Reads inputs; keeps the last zip archive open, as its directory is slow to read.

    Not for several threads at once; open one per process or thread.
    """

    def __init__(self, settings: Settings, objects: ObjectStore) -> None:
        self._objects = objects
        self._cache = source_cache(settings)
        self._buckets = SourceBuckets(settings)
        self._zip: tuple[Path, zipfile.ZipFile] | None = None

    def read(self, item: SourceInput) -> bytes:
        """The input's bytes, unchanged since the scan, so never more than `item.size_bytes`.

        Raises:
            InputError: it changed or disappeared since; the fingerprint would name other content.
            StoreUnavailableError: (transient) the store that holds it does not answer.
        """
        pieces, size, digest = [], 0, hashlib.sha256()
        try:
            for block in self._blocks(item.locator):
                size += len(block)
                if size > item.size_bytes:
                    raise _changed(item, f"it holds more than its {item.size_bytes} bytes")
                digest.update(block)
                pieces.append(block)
        except (RefusedInputError, ObjectNotFoundError, *ARCHIVE_ERRORS) as error:
            raise _changed(item, str(error) or type(error).__name__) from error
        if digest.hexdigest() != item.content_sha256:
            raise _changed(item, "its content is not what was hashed at the start")
        return b"".join(pieces)

    def prepare(self, item: SourceInput) -> None:
        """Bring the archive or the table that an input is part of onto this machine's disk.

        `read` does so too; but that may take longer than one input is given.

        Raises:
            InputError: it changed or disappeared since the scan.
            StoreUnavailableError: (transient) the store that holds it does not answer.
        """
        try:
            match item.locator:
                case TarMemberLocator():
                    self._tar(item.locator)
                case CompressedLocator(file=file, file_sha256=sha256):
                    self._unpacked(file, sha256)
                case (
                    ZipMemberLocator(file=file, file_sha256=sha256)
                    | LinesLocator(file=file, file_sha256=sha256)
                    | RowsLocator(file=file, file_sha256=sha256)
                ):
                    self._local(file, sha256)
        except (RefusedInputError, ObjectNotFoundError, *ARCHIVE_ERRORS) as error:
            raise _changed(item, str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Let go of open files."""
        if self._zip is not None:
            self._zip[1].close()
            self._zip = None

    def _blocks(self, locator: Locator) -> Iterator[bytes]:
        match locator:
            case FileLocator():
                yield from _file_blocks(locator.to_path())
            case SampleLocator(page=page):
                yield sample_page(page)
            case ObjectLocator(bucket=bucket, key=key):
                yield from self._buckets.store(bucket).read_blocks(key)
            case FetchedLocator(sha256=sha256):
                yield from self._objects.read_blocks(f"{FETCHED_PREFIX}{sha256}")
            case LinesLocator(file=file, file_sha256=sha256, start=start, end=end):
                yield from _file_blocks(self._local(file, sha256), start, end - start)
            case TarMemberLocator(offset=offset, size_bytes=size):
                yield from _file_blocks(self._tar(locator), offset, size)
            case CompressedLocator(file=file, file_sha256=sha256):
                yield from _file_blocks(self._unpacked(file, sha256))
            case ZipMemberLocator(file=file, file_sha256=sha256, index=index):
                archive = self._open_zip(self._local(file, sha256))
                with archive.open(archive.infolist()[index]) as stream:
                    yield from _stream_blocks(stream)
            case RowsLocator(file=file, file_sha256=sha256):
                with open_table(self._local(file, sha256)) as table:
                    yield from row_lines(
                        table, locator.group, locator.start, locator.end, locator.columns
                    )
            case _:
                raise AssertionError(f"no reader for {type(locator).__name__}")

    def _local(self, file: Locator, sha256: str) -> Path:
        """The file's content on this machine's disk."""
        if isinstance(file, FileLocator):
            return file.to_path()
        if isinstance(file, CompressedLocator):
            return self._unpacked(file.file, file.file_sha256)
        return self._cache.file(sha256, lambda target: self._copy(file, sha256, target))

    def _unpacked(self, file: Locator, sha256: str) -> Path:
        def write(target: Path) -> None:
            path = self._local(file, sha256)
            _require_sha256(path, sha256)
            with target.open("wb") as out:
                for block in decompressed_blocks(path):
                    out.write(block)

        return self._cache.file(unpacked_name(sha256), write)

    def _tar(self, member: TarMemberLocator) -> Path:
        if member.is_compressed:
            return self._unpacked(member.file, member.file_sha256)
        return self._local(member.file, member.file_sha256)

    def _copy(self, file: Locator, sha256: str, target: Path) -> None:
        with target.open("wb") as out:
            for block in self._blocks(file):
                out.write(block)
        _require_sha256(target, sha256)

    def _open_zip(self, path: Path) -> zipfile.ZipFile:
        if self._zip is None or self._zip[0] != path:
            self.close()
            self._zip = (path, zipfile.ZipFile(path))
        return self._zip[1]


def _require_sha256(path: Path, sha256: str) -> None:
    """Nothing may enter the cache under a hash that is not its own."""
    if sha256_file(path) != sha256:
        raise RefusedInputError(DropReason.UNREADABLE, "the file that holds it is another one now")


def _file_blocks(path: Path, start: int = 0, length: int | None = None) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(start)
        yield from _stream_blocks(stream, length)


def _stream_blocks(stream: IO[bytes], length: int | None = None) -> Iterator[bytes]:
    left = length
    while block := stream.read(BLOCK_BYTES if left is None else min(left, BLOCK_BYTES)):
        yield block
        if left is not None:
            left -= len(block)


def _changed(item: SourceInput, what: str) -> InputError:
    return InputError(
        f"{item.uri} changed while the corpus was being read: {what}",
        hint="Run again once nothing writes to the sources any more. Files must be readable on "
        "every worker: put them on a shared file system or in a bucket.",
    )
