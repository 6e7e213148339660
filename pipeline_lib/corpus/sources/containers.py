"""Which files hold other inputs: by their content, and by name where content cannot tell."""

from __future__ import annotations

import json
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path, PurePosixPath

from pipeline_lib.config.corpus import IngestLimits
from pipeline_lib.corpus.drops import RefusedInputError
from pipeline_lib.corpus.sources.archives import open_zip
from pipeline_lib.corpus.sources.compression import (
    DECOMPRESSION_ERRORS,
    SUFFIXES,
    compression_of,
    decompressed_blocks,
)

HEAD_BYTES = 1 << 16
"""How much of a file `may_be_container` needs to see."""

_TAR_MAGIC, _TAR_MAGIC_OFFSET = b"ustar", 257
_ARROW_STREAM = b"\xff\xff\xff\xff"
_JSONL_SUFFIXES = (".jsonl", ".ndjson")
_ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
_TAR_SUFFIXES = (".tar", ".tgz", ".tbz", ".tbz2", ".txz")
_DOCUMENT_SUFFIXES = frozenset(
    ".docx .docm .dotx .pptx .pptm .xlsx .xlsm .epub .odt .odp .ods".split()
)
_DOCUMENT_MARKS = frozenset({"[Content_Types].xml", "mimetype"})


class Container(Enum):
    """How a file holds its inputs."""

    ZIP = auto()
    TAR = auto()
    COMPRESSED_TAR = auto()
    COMPRESSED = auto()
    """One compressed file."""
    LINES = auto()
    """JSON Lines."""
    TABLE = auto()
    """Parquet or Arrow."""


def may_be_container(name: str, head: bytes) -> bool:
    """Whether a file with these first bytes must be looked into; see `container_kind`."""
    return _kind_by_head(name, head) is not None


def is_foreign(name: str, head: bytes) -> bool:
    """Whether it takes a decoder to look into a file with these first bytes."""
    return _kind_by_head(name, head) not in (None, Container.LINES)


def container_kind(name: str, path: Path, limits: IngestLimits) -> Container | None:
    """How the file holds other inputs; `None`: it is one document.

    A zip that is an office document or an e-book is a document. So is a damaged zip with the
    suffix of one: its parser says best what is wrong.
    """
    with path.open("rb") as stream:
        kind = _kind_by_head(name, stream.read(HEAD_BYTES))
    if kind is Container.ZIP and _is_document(path, limits):
        return None
    if kind is Container.COMPRESSED and _holds_tar(name, path):
        return Container.COMPRESSED_TAR
    return kind


def _kind_by_head(name: str, head: bytes) -> Container | None:
    suffix = PurePosixPath(name.lower()).suffix
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return None if suffix in _DOCUMENT_SUFFIXES else Container.ZIP
    if compression_of(head):
        return Container.COMPRESSED
    if head.startswith((b"PAR1", b"ARROW1")):
        return Container.TABLE
    if head.startswith(_ARROW_STREAM) and suffix in _ARROW_SUFFIXES:
        return Container.TABLE
    if head[_TAR_MAGIC_OFFSET:].startswith(_TAR_MAGIC):
        return Container.TAR
    if suffix in _JSONL_SUFFIXES or (suffix == ".json" and _is_json_lines(head)):
        return Container.LINES
    return None


def _is_json_lines(head: bytes) -> bool:
    """Whether a `.json` file holds an object a line: the first line is one, and another follows."""
    first, newline, rest = head.partition(b"\n")
    if not newline or not rest.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _is_document(path: Path, limits: IngestLimits) -> bool:
    with suppress(RefusedInputError), open_zip(path, limits) as archive:
        return not _DOCUMENT_MARKS.isdisjoint(archive.namelist())
    return False


def _holds_tar(name: str, path: Path) -> bool:
    if PurePosixPath(name.lower()).suffix in _TAR_SUFFIXES:
        return True
    if any(name.lower().endswith(f".tar{suffix}") for suffix in SUFFIXES):
        return True
    start = b""
    with suppress(*DECOMPRESSION_ERRORS):
        for block in decompressed_blocks(path):
            start += block
            if len(start) >= 2 * _TAR_MAGIC_OFFSET:
                break
    return start[_TAR_MAGIC_OFFSET:].startswith(_TAR_MAGIC)


def inner_name(name: str) -> str:
    """What a compressed file is called without its compression: `a.jsonl.gz` holds `a.jsonl`."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name
