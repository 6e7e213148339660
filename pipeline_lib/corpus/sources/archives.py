"""The members of zip and tar archives, one at a time, without unpacking to names they choose.

Nothing is written under a member's own name, so a hostile name cannot reach outside; it is refused
all the same, since it would become part of a URI.
"""

from __future__ import annotations

import errno
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from pipeline_lib.config.corpus import IngestLimits
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.sources.locators import AnyLocator, TarMemberLocator, ZipMemberLocator

MAX_RATIO = 200
"""Uncompressed to compressed bytes of a member; prose reaches 4, logs and tables perhaps 50."""
_RATIO_COUNTS_FROM_BYTES = 10_000_000
"""Below this a high ratio is harmless: empty pages and rows of zeros have it too."""
_MAX_DIRECTORY_ENTRY_BYTES = 1024
"""Of the zip's directory, on average: bounds what is held in memory."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_ENCRYPTED_FLAG = 0x1
_DRIVE = re.compile(r"[A-Za-z]:")

ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,
)
"""What damaged archives raise."""


@dataclass(frozen=True)
class Member:
    """One file in an archive."""

    name: str
    locator: AnyLocator
    size_bytes: int
    """As the archive declares it; what is really there is counted while it is read."""
    open: Callable[[], AbstractContextManager[IO[bytes]]] = field(repr=False)
    refusal: RefusedInputError | None = None
    """Why it must not be read."""


@contextmanager
def broken_archive_refused() -> Iterator[None]:
    """What damaged archives raise becomes a refusal.

    Raises:
        RefusedInputError: with what was wrong.
    """
    try:
        yield
    except ARCHIVE_ERRORS as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # our disk, not their archive
        raise RefusedInputError(
            DropReason.BROKEN_FILE, f"a damaged archive: {error or type(error).__name__}"
        ) from error


@contextmanager
def open_zip(path: Path, limits: IngestLimits) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose directory is small enough to hold in memory.

    Raises:
        RefusedInputError: it is not, or the archive is damaged.
    """
    with broken_archive_refused():
        size = _directory_size(path)
        if size > limits.max_members * _MAX_DIRECTORY_ENTRY_BYTES:
            raise RefusedInputError(
                DropReason.TOO_MANY_MEMBERS,
                f"a directory of {size} bytes; ingest.limits.max_members is {limits.max_members}",
            )
        with zipfile.ZipFile(path) as archive:
            yield archive


def _directory_size(path: Path) -> int:
    """Bytes of the zip's central directory, by the record at its end (APPNOTE 4.3.16, 4.3.14)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(size - (1 << 16) - 22, 0))
        tail = stream.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            raise zipfile.BadZipFile("its directory is missing")
        (directory,) = struct.unpack_from("<L", tail, at + 12)
        if directory == 0xFFFFFFFF and at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
            (offset,) = struct.unpack_from("<Q", tail, at - 12)
            stream.seek(offset)
            (directory,) = struct.unpack_from("<Q", stream.read(56), 40)
    return int(directory)


def zip_members(
    archive: zipfile.ZipFile, file: AnyLocator, file_sha256: str, limits: IngestLimits
) -> Iterator[Member]:
    """The files in a zip archive, in the order of its directory.

    Raises:
        RefusedInputError: it declares more members or bytes than the limits allow.
    """
    entries = archive.infolist()
    _check_count(len(entries), limits)
    declared = sum(entry.file_size for entry in entries)
    if declared > limits.max_unpacked_bytes:
        raise unpacks_to_too_much(declared, limits)
    for index, entry in enumerate(entries):
        if entry.is_dir():
            continue
        yield Member(
            name=entry.filename,
            locator=ZipMemberLocator(file=file, file_sha256=file_sha256, index=index),
            size_bytes=entry.file_size,
            open=partial(archive.open, entry),
            refusal=_refused_name(entry.filename) or _refused_entry(entry),
        )


def tar_members(
    path: Path, file: AnyLocator, file_sha256: str, limits: IngestLimits, *, is_compressed: bool
) -> Iterator[Member]:
    """The files in an uncompressed tar archive, in order.

    Args:
        path: the uncompressed archive.
        file: where the archive came from.
        file_sha256: of the archive as it came.
        limits: bounds the number of members.
        is_compressed: whether the archive at `file` is compressed.
    """
    with tarfile.open(path, "r:") as archive:
        for count, entry in enumerate(archive, start=1):
            _check_count(count, limits)
            if entry.isdir():
                continue
            yield Member(
                name=entry.name,
                locator=TarMemberLocator(
                    file=file,
                    file_sha256=file_sha256,
                    is_compressed=is_compressed,
                    offset=entry.offset_data,
                    size_bytes=entry.size,
                ),
                size_bytes=entry.size,
                open=partial(_open_tar_entry, archive, entry),
                refusal=_refused_name(entry.name) or _refused_tar_entry(entry),
            )


def unpacks_to_too_much(size: int, limits: IngestLimits) -> RefusedInputError:
    """The refusal of an archive that holds too many bytes."""
    return RefusedInputError(
        DropReason.ARCHIVE_BOMB,
        f"unpacks to {size} bytes or more; ingest.limits.max_unpacked_bytes is "
        f"{limits.max_unpacked_bytes}",
    )


def ratio_refusal(unpacked: int, packed: int) -> RefusedInputError | None:
    """The refusal when so many bytes come out of so few that it must be a bomb."""
    if unpacked <= _RATIO_COUNTS_FROM_BYTES or unpacked <= MAX_RATIO * packed:
        return None
    return RefusedInputError(
        DropReason.ARCHIVE_BOMB,
        f"{packed} bytes unpack to {unpacked} or more: over {MAX_RATIO} to one",
    )


def _check_count(count: int, limits: IngestLimits) -> None:
    if count > limits.max_members:
        raise RefusedInputError(
            DropReason.TOO_MANY_MEMBERS,
            f"{count} members or more; ingest.limits.max_members is {limits.max_members}",
        )


def _refused_name(name: str) -> RefusedInputError | None:
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or _DRIVE.match(name):
        detail = "its name is an absolute path"
    elif ".." in parts:
        detail = "its name leads out of the archive"
    elif "\x00" in name:
        detail = "its name holds a NUL byte"
    else:
        return None
    return RefusedInputError(DropReason.UNSAFE_PATH, detail)


def _refused_entry(entry: zipfile.ZipInfo) -> RefusedInputError | None:
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return RefusedInputError(DropReason.UNSAFE_PATH, "a link or a device, not a file")
    if entry.flag_bits & _ENCRYPTED_FLAG:
        return RefusedInputError(DropReason.ENCRYPTED, "the archive is protected by a password")
    if entry.compress_type not in _METHODS:
        detail = f"packed by method {entry.compress_type}; stored, deflate and bzip2 are read"
        return RefusedInputError(DropReason.BROKEN_FILE, detail)
    return ratio_refusal(entry.file_size, entry.compress_size)


def _open_tar_entry(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(entry)
    if stream is None:
        raise tarfile.ReadError("a member without content")
    return stream


def _refused_tar_entry(entry: tarfile.TarInfo) -> RefusedInputError | None:
    if not entry.isreg():
        return RefusedInputError(DropReason.UNSAFE_PATH, "a link or a device, not a file")
    if entry.issparse():
        return RefusedInputError(DropReason.BROKEN_FILE, "a sparse file, which is not supported")
    return None
