"""E-books: zip, package document, spine, XHTML (EPUB 3.3; EPUB 2 reads the same).

One segment a part of the spine, in reading order, as Markdown. The cover and the navigation page,
which repeat what follows, are left out.
"""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import EPUB
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment, name_of
from pipeline_lib.corpus.parsing.decoding import decode
from pipeline_lib.corpus.parsing.markup import to_markdown
from pipeline_lib.corpus.parsing.metadata import json_ready, language_code
from pipeline_lib.corpus.parsing.packages import open_package, parse_xml, read_member
from pipeline_lib.corpus.sources.base import SourceInput

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGE_TYPES = frozenset({"application/xhtml+xml", "text/html"})
_FACTS = ("creator", "publisher", "date", "description", "subject", "identifier", "rights")


@dataclass(frozen=True)
class _Part:
    """A page of the spine."""

    path: str
    is_navigation: bool


def parse_epub(item: SourceInput, data: bytes, config: IngestConfig) -> Iterator[ParsedDocument]:
    """Parts are labelled by their first heading, or by their file's name."""
    with open_package(data, config, "EPUB") as package:
        opf_path = _opf_path(package)
        opf = parse_xml(read_member(package, opf_path))
        parts = _spine(opf, posixpath.dirname(opf_path))
        if len(parts) > config.limits.max_pages:
            detail = f"{len(parts)} parts; ingest.limits.max_pages is {config.limits.max_pages}"
            raise RefusedInputError(DropReason.TOO_MANY_PAGES, detail)
        locked = _encrypted_paths(package)
        if any(part.path in locked for part in parts):
            raise RefusedInputError(DropReason.ENCRYPTED, "its pages are locked by DRM")
        pages = [_segment(package, part) for part in parts if not part.is_navigation]
    segments = tuple(page for page in pages if page.text)
    if not segments:
        raise RefusedInputError(DropReason.NO_TEXT, f"no text in {len(parts)} parts")
    facts = _facts(opf)
    yield ParsedDocument(
        source_uri=item.uri,
        media_type=EPUB,
        segments=segments,
        is_markdown=True,
        title=facts.pop("title", None) or item.title,
        name=name_of(item.uri),
        language=language_code(facts.get("language")),
        metadata=json_ready(facts),
    )


def _opf_path(package: zipfile.ZipFile) -> str:
    container = parse_xml(read_member(package, _CONTAINER))
    for rootfile in container.iter("{*}rootfile"):
        if path := rootfile.get("full-path"):
            return str(path)
    raise RefusedInputError(DropReason.BROKEN_FILE, f"{_CONTAINER} names no package document")


def _spine(opf: Any, folder: str) -> list[_Part]:
    manifest = {entry.get("id"): entry for entry in opf.iter("{*}item")}
    parts = []
    for reference in opf.iter("{*}itemref"):
        entry = manifest.get(reference.get("idref"))
        if entry is None or entry.get("media-type") not in _PAGE_TYPES:
            continue
        path = posixpath.normpath(posixpath.join(folder, unquote(entry.get("href") or "")))
        is_navigation = "nav" in (entry.get("properties") or "").split()
        parts.append(_Part(path, is_navigation))
    return parts


def _encrypted_paths(package: zipfile.ZipFile) -> set[str]:
    if _ENCRYPTION not in package.namelist():
        return set()
    encryption = parse_xml(read_member(package, _ENCRYPTION))
    return {unquote(entry.get("URI") or "") for entry in encryption.iter("{*}CipherReference")}


def _segment(package: zipfile.ZipFile, part: _Part) -> Segment:
    root = _page(read_member(package, part.path))
    text = "" if root is None else to_markdown(root)
    return Segment(text=text, kind="part", label=_label(text, part.path))


def _page(content: bytes) -> Any:
    """The page's root element; `None` when there is nothing in it but comments.

    Read as HTML: pages that are not well-formed are common, and entities have no power there.
    """
    from lxml import etree, html

    parser = html.HTMLParser(encoding="utf-8", no_network=True)
    text = decode(content, is_html=True).text
    try:
        return html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except (etree.ParserError, ValueError):
        return None


def _label(text: str, path: str) -> str:
    for line in text.split("\n"):
        if line.startswith("#"):
            return line.lstrip("# ").strip()
    return posixpath.splitext(posixpath.basename(path))[0]


def _facts(opf: Any) -> dict[str, Any]:
    """Dublin Core elements; several of a name as a list."""
    facts: dict[str, Any] = {}
    for name in ("title", "language", *_FACTS):
        elements = opf.iter(f"{{http://purl.org/dc/elements/1.1/}}{name}")
        texts = [" ".join("".join(element.itertext()).split()) for element in elements]
        if found := [text for text in texts if text]:
            facts[name] = found[0] if len(found) == 1 or name in ("title", "language") else found
    return facts
