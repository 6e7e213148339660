"""gzip, bzip2 and xz as bounded streams."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1 << 18
_XZ_MEMORY_BYTES = 128 * 1024**2
"""An xz file names the size of its own dictionary; `xz -9` needs 65 MiB."""

DECOMPRESSION_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)
"""What damaged data raises: `gzip.BadGzipFile` is an `OSError`."""

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}


def compression_of(head: bytes) -> str | None:
    """`gzip`, `bzip2`, `xz`, or `None` when the first bytes are of none of them."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def decompressed_blocks(path: Path) -> Iterator[bytes]:
    """The content of a compressed file, in blocks of at most `BLOCK_BYTES`.

    Raises:
        OSError, EOFError, zlib.error, lzma.LZMAError: the data is damaged or ends early.
    """
    with path.open("rb") as stream:
        kind = compression_of(stream.read(6))
        stream.seek(0)
        if kind == "xz":
            yield from _xz_blocks(stream)
            return
        with gzip.GzipFile(fileobj=stream) if kind == "gzip" else bz2.BZ2File(stream) as content:
            while block := content.read(BLOCK_BYTES):
                yield block


def _xz_blocks(stream: BinaryIO) -> Iterator[bytes]:
    """As `lzma.open`, which cannot limit the memory that the file asks for."""
    pending = stream.read(BLOCK_BYTES)
    while pending.strip(b"\x00"):  # streams may follow each other, padded with zeros
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
        while not decompressor.eof:
            block = decompressor.decompress(pending, BLOCK_BYTES)
            pending = b""
            if block:
                yield block
            if decompressor.needs_input and not decompressor.eof:
                pending = stream.read(BLOCK_BYTES)
                if not pending:
                    raise EOFError("the compressed data ends early")
        pending = decompressor.unused_data or stream.read(BLOCK_BYTES)
