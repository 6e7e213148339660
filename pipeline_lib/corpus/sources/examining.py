"""What is in a file: one document, or the many inputs of an archive or a file of records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from pipeline_lib.config.corpus import IngestLimits, RecordColumns
from pipeline_lib.corpus.drops import DropReason, RefusedInputError, make_drop
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.archives import (
    Member,
    broken_archive_refused,
    open_zip,
    ratio_refusal,
    tar_members,
    zip_members,
)
from pipeline_lib.corpus.sources.base import Examined, SourceInput
from pipeline_lib.corpus.sources.budget import BombError, Budget
from pipeline_lib.corpus.sources.cache import LocalCache, Spooled
from pipeline_lib.corpus.sources.compression import BLOCK_BYTES, decompressed_blocks
from pipeline_lib.corpus.sources.containers import (
    HEAD_BYTES,
    Container,
    container_kind,
    inner_name,
    may_be_container,
)
from pipeline_lib.corpus.sources.files import LocalFile
from pipeline_lib.corpus.sources.locators import CompressedLocator
from pipeline_lib.corpus.sources.names import hidden_part, readable
from pipeline_lib.corpus.sources.record_inputs import record_inputs


class Examiner:
    """Turns files into inputs and drops.

    Args:
        cache: keeps inner archives and uncompressed copies, which are read at random later.
        limits: what one document and one archive may be.
        columns: which columns of records are needed.
    """

    def __init__(self, cache: LocalCache, limits: IngestLimits, columns: RecordColumns) -> None:
        self._cache = cache
        self._limits = limits
        self._columns = columns

    def examine(self, file: LocalFile) -> list[Examined]:
        """The inputs in a file, in its order; a file that is refused gives one drop.

        Reads the whole file once, archives and compressed files also their content. Memory holds
        one block or record, and what is returned.
        """
        try:
            return list(self._examine(file, depth=0, budget=Budget(self._limits)))
        except BombError as bomb:
            return [bomb.refusal.to_drop(file.uri)]

    def examine_copy(self, file: LocalFile) -> list[Examined]:
        """As `examine`, for a temporary copy: it goes into the cache if parts of it are read later.

        `file.sha256` must be known.
        """
        try:
            return list(self._examine_copy(file, depth=0, budget=Budget(self._limits)))
        except BombError as bomb:
            return [bomb.refusal.to_drop(file.uri)]

    def _examine_copy(self, file: LocalFile, depth: int, budget: Budget) -> Iterable[Examined]:
        try:
            kind = container_kind(file.name, file.path, self._limits)
            if kind is None:
                return self._open(file, kind, depth, budget)
            cached = self._cache.adopt(file.path, file.content_sha256())
            return self._open(replace(file, path=cached), kind, depth, budget)
        finally:
            file.path.unlink(missing_ok=True)

    def _examine(self, file: LocalFile, depth: int, budget: Budget) -> Iterable[Examined]:
        kind = container_kind(file.name, file.path, self._limits)
        return self._open(file, kind, depth, budget)

    def _open(
        self, file: LocalFile, kind: Container | None, depth: int, budget: Budget
    ) -> Iterable[Examined]:
        try:
            if kind is None:
                return [self._document(file)]
            if kind in (Container.LINES, Container.TABLE):
                return _at_least_one(list(record_inputs(file, kind, self._limits, self._columns)))
            if depth > self._limits.max_nesting:
                detail = (
                    f"an archive inside {depth} others; ingest.limits.max_nesting is "
                    f"{self._limits.max_nesting}"
                )
                raise RefusedInputError(DropReason.TOO_NESTED, detail)
            return _at_least_one(list(self._unpack(file, kind, depth, budget)))
        except RefusedInputError as refusal:
            return [refusal.to_drop(file.uri)]

    def _document(self, file: LocalFile) -> SourceInput:
        size = file.path.stat().st_size
        if size > self._limits.max_file_bytes:
            raise too_large(size, self._limits)
        return SourceInput(
            uri=file.uri,
            locator=file.locator,
            content_sha256=file.content_sha256(),
            size_bytes=size,
            media_type=file.media_type,
            metadata=file.metadata,
        )

    def _unpack(
        self, file: LocalFile, kind: Container, depth: int, budget: Budget
    ) -> Iterable[Examined]:
        if kind is Container.ZIP:
            return self._unpack_zip(file, depth, budget)
        if kind is Container.COMPRESSED:
            return self._unpack_single(file, depth, budget)
        return self._unpack_tar(file, depth, budget, kind is Container.COMPRESSED_TAR)

    def _unpack_zip(self, file: LocalFile, depth: int, budget: Budget) -> Iterator[Examined]:
        with open_zip(file.path, self._limits) as archive:
            members = zip_members(archive, file.locator, file.cache_key(), self._limits)
            yield from self._members(file, members, depth, budget)

    def _unpack_tar(
        self, file: LocalFile, depth: int, budget: Budget, is_compressed: bool
    ) -> Iterator[Examined]:
        path, key = file.path, file.cache_key()
        if is_compressed:
            key = file.content_sha256()
            # What the members take is counted when they are read.
            path = self._decompressed(file, key, budget)
        with broken_archive_refused():
            members = tar_members(
                path, file.locator, key, self._limits, is_compressed=is_compressed
            )
            yield from self._members(file, members, depth, budget)

    def _unpack_single(self, file: LocalFile, depth: int, budget: Budget) -> Iterable[Examined]:
        sha256, name = file.content_sha256(), inner_name(file.name)
        path = self._decompressed(file, sha256, budget)
        budget.spend(path.stat().st_size)
        content = LocalFile(
            uri=f"{file.uri}!/{name}",
            name=name,
            path=path,
            locator=CompressedLocator(file=file.locator, file_sha256=sha256),
        )
        return self._examine(content, depth + 1, budget)

    def _decompressed(self, file: LocalFile, sha256: str, budget: Budget) -> Path:
        packed = file.path.stat().st_size

        def write(target: Path) -> None:
            unpacked = 0
            with target.open("wb") as out, broken_archive_refused():
                for block in decompressed_blocks(file.path):
                    unpacked += len(block)
                    budget.require(unpacked)
                    refusal = ratio_refusal(unpacked, packed)
                    if refusal is not None:
                        raise refusal
                    out.write(block)

        return self._cache.file(unpacked_name(sha256), write)

    def _members(
        self, file: LocalFile, members: Iterable[Member], depth: int, budget: Budget
    ) -> Iterator[Examined]:
        seen: set[str] = set()
        hidden: set[str] = set()
        for member in members:
            budget.count_member()
            name = _plain_name(member.name)
            uri = f"{file.uri}!/{name}"
            cover = hidden_part(name)
            if cover is not None:
                if cover not in hidden:
                    hidden.add(cover)
                    yield make_drop(
                        f"{file.uri}!/{cover}",
                        DropReason.HIDDEN,
                        "names that begin with a dot are skipped",
                    )
            elif member.refusal is not None:
                yield member.refusal.to_drop(uri)
            elif name in seen:
                yield Drop(
                    source_uri=uri,
                    reason=DropReason.DUPLICATE_URI.value,
                    detail="another member of the archive has the same name",
                    remedy="Pack the archive again with each name once.",
                )
            else:
                seen.add(name)
                yield from self._member(member, uri, depth, budget)

    def _member(self, member: Member, uri: str, depth: int, budget: Budget) -> Iterable[Examined]:
        try:
            with broken_archive_refused(), member.open() as stream:
                head = stream.read(HEAD_BYTES)
                if not may_be_container(member.name, head):
                    return [self._member_document(member, uri, head, stream, budget)]
                spooled = self._spool(head, stream, budget)
        except RefusedInputError as refusal:
            return [refusal.to_drop(uri)]
        file = LocalFile(
            uri=uri,
            name=member.name,
            path=spooled.path,
            locator=member.locator,
            sha256=spooled.sha256,
        )
        return self._examine_copy(file, depth + 1, budget)

    def _member_document(
        self, member: Member, uri: str, head: bytes, stream: IO[bytes], budget: Budget
    ) -> SourceInput:
        if member.size_bytes > self._limits.max_file_bytes:
            raise too_large(member.size_bytes, self._limits)
        digest, size, block = hashlib.sha256(), 0, head
        while block:
            digest.update(block)
            size += len(block)
            budget.spend(len(block))
            if size > self._limits.max_file_bytes:
                raise too_large(size, self._limits)
            block = stream.read(BLOCK_BYTES)
        return SourceInput(
            uri=uri, locator=member.locator, content_sha256=digest.hexdigest(), size_bytes=size
        )

    def _spool(self, head: bytes, stream: IO[bytes], budget: Budget) -> Spooled:
        def blocks() -> Iterator[bytes]:
            block = head
            while block:
                budget.spend(len(block))
                yield block
                block = stream.read(BLOCK_BYTES)

        return self._cache.spool(blocks())


def _at_least_one(found: list[Examined]) -> list[Examined]:
    """An archive or a file of records must not vanish because it holds nothing."""
    if not found:
        raise RefusedInputError(DropReason.EMPTY, "it holds no files and no records")
    return found


def unpacked_name(sha256: str) -> str:
    """What the cache calls the uncompressed content of a compressed file."""
    return f"{sha256}.unpacked"


def too_large(size: int, limits: IngestLimits) -> RefusedInputError:
    """The refusal of a document that is too large."""
    return RefusedInputError(
        DropReason.TOO_LARGE,
        f"{size} bytes; ingest.limits.max_file_bytes is {limits.max_file_bytes}",
    )


def _plain_name(name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    return readable("/".join(part for part in parts if part not in ("", ".")))
