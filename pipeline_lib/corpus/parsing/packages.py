"""Documents that are zip files inside: checked before any library opens them.

Python's `zipfile` never unpacks more of a member than its directory states, so the stated sizes
are a true bound. XML with a document type declaration is refused: none of these formats needs one,
and entities can read files, open connections or grow without end.
"""

from __future__ import annotations

import io
import lzma
import re
import zipfile
import zlib
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError

_OLE_MARK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")
_IS_ENCRYPTED = 0x1
_XML_SUFFIXES = (".xml", ".rels", ".opf", ".ncx")
_PROLOG_BYTES = 65_536
_PROLOG_NOISE = re.compile(rb"<!--.*?-->|<\?.*?\?>", re.DOTALL)
_DECLARATION = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_HARMLESS_DOCTYPE = re.compile(
    rb"<!DOCTYPE\s+(?:ncx|package)\s+PUBLIC\s+\"[^\"]*\"\s+\"[^\"]*\"\s*>", re.IGNORECASE
)
"""Names a public DTD and declares nothing: e-books had to, and it is never fetched."""
_START_TAG = re.compile(rb"<[A-Za-z_]")
PACKAGE_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(NotImplementedError, EOFError, OSError, ValueError),
)
"""What reading a member of a damaged package raises."""


def open_package(data: bytes, config: IngestConfig, kind: str) -> zipfile.ZipFile:
    """The package, once it is known to be one and to unpack within the limits.

    Args:
        data: of the document.
        config: for its limits.
        kind: what the document should be, for messages: `Word`.

    Raises:
        RefusedInputError: `broken_file`, `encrypted`, `unpacked_too_large`.
    """
    if data.startswith(_OLE_MARK):
        raise _refuse_ole(data, kind)
    try:
        package = zipfile.ZipFile(io.BytesIO(data))
    except PACKAGE_ERRORS as error:
        message = f"not a valid {kind} file: {error}"
        raise RefusedInputError(DropReason.BROKEN_FILE, message) from error
    members = package.infolist()
    _check_sizes(members, config)
    for member in members:
        if member.flag_bits & _IS_ENCRYPTED:
            raise RefusedInputError(DropReason.ENCRYPTED, f"{member.filename} is encrypted")
        if member.filename.lower().endswith(_XML_SUFFIXES):
            _check_prolog(package, member)
    return package


def read_member(package: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member.

    Raises:
        RefusedInputError: `broken_file`: it is missing or damaged.
    """
    try:
        return package.read(name)
    except KeyError as error:
        raise RefusedInputError(DropReason.BROKEN_FILE, f"{name} is missing in it") from error
    except PACKAGE_ERRORS as error:
        raise RefusedInputError(DropReason.BROKEN_FILE, f"{name}: {error}") from error


def parse_xml(content: bytes) -> Any:
    """The root element; entities and the network are off.

    Raises:
        RefusedInputError: `broken_file`: it is not well-formed.
    """
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise RefusedInputError(DropReason.BROKEN_FILE, f"XML: {error}") from error


def _refuse_ole(data: bytes, kind: str) -> RefusedInputError:
    if _ENCRYPTED_STREAM in data:
        return RefusedInputError(DropReason.ENCRYPTED, f"a {kind} file with a password")
    detail = f"a {kind} file in the binary format of before 2007, which is not read"
    return RefusedInputError(DropReason.UNSUPPORTED_TYPE, detail)


def _check_sizes(members: list[zipfile.ZipInfo], config: IngestConfig) -> None:
    limits = config.limits
    if len(members) > limits.max_members:
        detail = f"{len(members)} members; ingest.limits.max_members is {limits.max_members}"
        raise RefusedInputError(DropReason.UNPACKED_TOO_LARGE, detail)
    num_bytes = sum(member.file_size for member in members)
    if num_bytes > limits.max_unpacked_bytes:
        raise RefusedInputError(
            DropReason.UNPACKED_TOO_LARGE,
            f"{num_bytes} bytes unpacked; "
            f"ingest.limits.max_unpacked_bytes is {limits.max_unpacked_bytes}",
        )


def _check_prolog(package: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """A document type declaration can only stand before the first element."""
    try:
        with package.open(member) as stream:
            head = stream.read(_PROLOG_BYTES)
    except PACKAGE_ERRORS as error:
        detail = f"{member.filename}: {error}"
        raise RefusedInputError(DropReason.BROKEN_FILE, detail) from error
    prolog = _PROLOG_NOISE.sub(b"", head.replace(b"\0", b""))  # as it would read in UTF-16
    first_tag = _START_TAG.search(prolog)
    before = _HARMLESS_DOCTYPE.sub(b"", prolog[: first_tag.start()] if first_tag else prolog)
    if _DECLARATION.search(before) or (first_tag is None and len(head) == _PROLOG_BYTES):
        detail = f"{member.filename} declares XML entities or a document type"
        raise RefusedInputError(DropReason.BROKEN_FILE, detail)
