"""What kind of content an input is.

Content decides where it is unmistakable (a PDF called `.docx` is a PDF), then what the source
declares, then the name. Where all that is left is "some text", the name must be one of those that
people give to prose.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from pipeline_lib.corpus.media_types import (
    ARROW,
    CSV,
    DOCX,
    EPUB,
    HTML,
    JSONL,
    MARKDOWN,
    NOTEBOOK,
    PARQUET,
    PDF,
    PLAIN_TEXT,
    PPTX,
    RESTRUCTURED_TEXT,
    SOURCE_CODE,
    TAR,
    XLSX,
    ZIP,
)
from pipeline_lib.corpus.parsing.languages import LANGUAGE_BY_SUFFIX

HEAD_BYTES = 65_536
"""First bytes that `detect_media_type` wants to see; fewer make it rely on the name."""

MEDIA_TYPES: dict[str, str] = {
    ".txt": PLAIN_TEXT,
    ".text": PLAIN_TEXT,
    ".log": PLAIN_TEXT,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".mdx": MARKDOWN,
    ".rst": RESTRUCTURED_TEXT,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".pdf": PDF,
    ".docx": DOCX,
    ".pptx": PPTX,
    ".xlsx": XLSX,
    ".xlsm": XLSX,
    ".csv": CSV,
    ".tsv": CSV,
    ".epub": EPUB,
    ".ipynb": NOTEBOOK,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".parquet": PARQUET,
    ".arrow": ARROW,
    ".feather": ARROW,
    ".zip": ZIP,
    ".tar": TAR,
    ".tgz": TAR,
    ".tbz2": TAR,
    ".txz": TAR,
    ".tar.gz": TAR,
    ".tar.bz2": TAR,
    ".tar.xz": TAR,
    **dict.fromkeys(LANGUAGE_BY_SUFFIX, SOURCE_CODE),
}
"""File name suffix, lower case, to media type."""

_DECLARED = {
    "text/html": HTML,
    "application/xhtml+xml": HTML,
    "text/markdown": MARKDOWN,
    "text/x-markdown": MARKDOWN,
    "text/x-rst": RESTRUCTURED_TEXT,
    "text/prs.fallenstein.rst": RESTRUCTURED_TEXT,
    "text/csv": CSV,
    "text/tab-separated-values": CSV,
    "application/x-ndjson": JSONL,
    "application/jsonlines": JSONL,
}
"""Names that servers use; those of `media_types` are known as well."""
_SAYS_LITTLE = frozenset({PLAIN_TEXT, ZIP, "application/octet-stream", "binary/octet-stream"})
"""What servers and tools declare when they do not know better; the name may."""
_OWN_NAMES = frozenset(MEDIA_TYPES.values())
_OFFICE_FOLDERS = (("word/", DOCX), ("ppt/", PPTX), ("xl/", XLSX))
_ZIPPED_DOCUMENTS = frozenset({DOCX, PPTX, XLSX, EPUB})
_HAS_QUERY = re.compile(r"https?://", re.IGNORECASE)
_MAY_BEGIN_AS_HTML = frozenset({HTML, MARKDOWN, SOURCE_CODE})
_PROSE_NAMES = frozenset(
    {"readme", "license", "licence", "copying", "authors", "changelog", "changes", "contributing"}
    | {"history", "install", "news", "notice", "thanks", "todo"}
)
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
"""PKWARE APPNOTE, section 4.3.7."""
_LOCAL_SIGNATURE = b"PK\x03\x04"
_SIZE_FOLLOWS = 0x0008


def detect_media_type(name: str, head: bytes, declared: str | None = None) -> str | None:
    """One of `corpus.media_types`, or `None` for what ingest cannot read.

    Args:
        name: file name, path or URI.
        head: the first bytes, `HEAD_BYTES` or all there are.
        declared: what the source says it is, as in a Content-Type header.
    """
    named = MEDIA_TYPES.get(suffix_of(name))
    declared = _known_name(declared)
    by_content = _by_content(head, named, declared)
    if by_content is not None:
        return by_content
    if declared is not None and declared not in _SAYS_LITTLE:
        return declared
    if named is not None:
        return named
    if declared in (PLAIN_TEXT, ZIP):
        return declared
    stem = PurePosixPath(name).name.lower()
    return PLAIN_TEXT if stem in _PROSE_NAMES and b"\0" not in head else None


def suffix_of(name: str) -> str:
    """The suffix in lower case, dot included; `.tar.gz` and its like as one."""
    path = PurePosixPath(urlsplit(name).path if _HAS_QUERY.match(name) else name)
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if len(suffixes) == 2 and suffixes[0] == ".tar":
        return "".join(suffixes)
    return suffixes[-1] if suffixes else ""


def _known_name(declared: str | None) -> str | None:
    essence = (declared or "").partition(";")[0].strip().lower()
    if essence in _OWN_NAMES or essence in _SAYS_LITTLE:
        return essence
    return _DECLARED.get(essence)


def _by_content(head: bytes, named: str | None, declared: str | None) -> str | None:
    # Readers allow for junk before a PDF's mark (ISO 32000-1, appendix H); prose may quote it.
    if head.startswith(b"%PDF-") or (named in (PDF, None) and b"%PDF-" in head[:1024]):
        return PDF
    if head.startswith(b"PAR1"):
        return PARQUET
    if head.startswith(b"ARROW1\0\0"):
        return ARROW
    if head.startswith((_LOCAL_SIGNATURE, b"PK\x05\x06")):
        return _zip_kind(head, named)
    if head[257:262] == b"ustar":
        return TAR
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")) and TAR in (named, declared):
        return TAR
    if named not in _MAY_BEGIN_AS_HTML and _is_html_page(head):
        return HTML
    return None


def _is_html_page(head: bytes) -> bool:
    start = head[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _zip_kind(head: bytes, named: str | None) -> str:
    names = []
    for name, content in _members(head):
        if name == "mimetype" and content.startswith(EPUB.encode()):
            return EPUB
        names.append(name)
    if "[Content_Types].xml" in names or "_rels/.rels" in names:
        for folder, media_type in _OFFICE_FOLDERS:
            if any(name.startswith(folder) for name in names):
                return media_type
    if "META-INF/container.xml" in names and any(name.endswith(".opf") for name in names):
        return EPUB
    return named if named in _ZIPPED_DOCUMENTS else ZIP


def _members(head: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and first (possibly packed) bytes of a zip's members, as far as `head` shows them."""
    position = 0
    while 0 <= position <= len(head) - _LOCAL_HEADER.size:
        fields = _LOCAL_HEADER.unpack_from(head, position)
        if fields[0] != _LOCAL_SIGNATURE:
            return
        flags, packed_size, name_size, extra_size = fields[2], fields[7], fields[9], fields[10]
        name_start = position + _LOCAL_HEADER.size
        content_start = name_start + name_size + extra_size
        name = head[name_start : name_start + name_size].decode("utf-8", "replace")
        yield name, head[content_start : content_start + 64]
        position = content_start + packed_size
        if flags & _SIZE_FOLLOWS:
            position = head.find(_LOCAL_SIGNATURE, content_start)
