"""Sitemaps (sitemaps.org): lists of pages, and lists of such lists."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline_lib.corpus.drops import DropReason, RefusedInputError, make_drop
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.addresses import normal_url, without_credentials

MAX_SITEMAP_BYTES = 50 * 1024**2
"""Of one file, uncompressed: the protocol's own limit."""
MAX_SITEMAPS = 1_000
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 18
_INDEX, _URLSET = "sitemapindex", "urlset"

FetchBlocks = Callable[[str, Callable[[Iterable[bytes]], "Sitemap"]], "Sitemap"]
"""Fetches a URL and returns what the second argument makes of its body's blocks."""


@dataclass
class Sitemap:
    """One sitemap file."""

    is_index: bool = False
    locations: list[str] = field(default_factory=list)


@dataclass
class _Walk:
    fetch: FetchBlocks
    max_urls: int
    pages: dict[str, None] = field(default_factory=dict)
    drops: list[Drop] = field(default_factory=list)
    num_left_out: int = 0
    seen: set[str] = field(default_factory=set)


def list_sitemap(url: str, fetch: FetchBlocks, max_urls: int) -> list[str | Drop]:
    """The pages that a sitemap and the sitemaps under it name, each once, in order of URL.

    A sitemap that lists itself, or one above it, is a drop, as is one that cannot be fetched.

    Args:
        url: of the first sitemap.
        fetch: gets a sitemap.
        max_urls: pages beyond so many are left out, with a drop that counts them.
    """
    walk = _Walk(fetch, max_urls)
    _visit(url, (), walk)
    if walk.num_left_out:
        detail = f"{walk.num_left_out} URLs beyond ingest.web.max_urls = {max_urls} were left out"
        walk.drops.append(make_drop(url, DropReason.TOO_MANY_URLS, detail))
    return [*sorted(walk.pages), *walk.drops]


def read_sitemap(blocks: Iterable[bytes]) -> Sitemap:
    """A sitemap from its bytes: XML, or plain text with one URL a line; gzipped or not.

    Raises:
        RefusedInputError: it is neither, or larger than the protocol allows.
    """
    bounded = _bounded(_gunzipped(blocks))
    first = next(bounded, b"")
    content = _chain(first, bounded)
    if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return _read_xml(content)
    lines = b"".join(content).decode("utf-8", "replace").split("\n")
    return Sitemap(locations=[line.strip() for line in lines if line.strip()])


def _visit(url: str, above: tuple[str, ...], walk: _Walk) -> None:
    if url in above:
        _refuse(walk, url, "a sitemap that lists itself, directly or through others")
        return
    if url in walk.seen:
        return
    walk.seen.add(url)
    if len(walk.seen) > MAX_SITEMAPS:
        _refuse(walk, url, f"more than {MAX_SITEMAPS} sitemaps under {above[0]}")
        return
    try:
        sitemap = walk.fetch(url, read_sitemap)
    except RefusedInputError as refusal:
        walk.drops.append(refusal.to_drop(url))
        return
    for location in sitemap.locations:
        try:
            target = normal_url(location)
        except RefusedInputError as refusal:
            walk.drops.append(refusal.to_drop(without_credentials(location)))
            continue
        if sitemap.is_index:
            _visit(target, (*above, url), walk)
        elif target not in walk.pages:
            if len(walk.pages) < walk.max_urls:
                walk.pages[target] = None
            else:
                walk.num_left_out += 1


def _refuse(walk: _Walk, url: str, detail: str) -> None:
    walk.drops.append(make_drop(url, DropReason.FETCH_FAILED, detail))


def _read_xml(content: Iterable[bytes]) -> Sitemap:
    from lxml import etree

    parser: Any = etree.XMLPullParser(
        events=("start", "end"), resolve_entities=False, no_network=True, load_dtd=False
    )
    sitemap, root = Sitemap(), None
    try:
        for block in content:
            parser.feed(block)
            for event, element in parser.read_events():
                name = etree.QName(element).localname if isinstance(element.tag, str) else ""
                if root is None:
                    root = name
                    sitemap.is_index = root == _INDEX
                if event == "end" and name == "loc" and element.text:
                    sitemap.locations.append(element.text.strip())
                if event == "end" and name in ("url", "sitemap"):
                    element.clear(keep_tail=False)
        parser.close()
    except etree.XMLSyntaxError as error:
        raise RefusedInputError(DropReason.BROKEN_FILE, f"not a sitemap: {error}") from error
    if root not in (_INDEX, _URLSET):
        raise RefusedInputError(DropReason.BROKEN_FILE, f"not a sitemap: its root is {root!r}")
    return sitemap


def _gunzipped(blocks: Iterable[bytes]) -> Iterator[bytes]:
    decompressor: Any = None
    is_first = True
    for block in blocks:
        if is_first and block.startswith(_GZIP_MAGIC):
            decompressor = zlib.decompressobj(wbits=31)
        is_first = False
        if decompressor is None:
            yield block
            continue
        pending = block
        try:
            while pending:
                yield decompressor.decompress(pending, _BLOCK_BYTES)
                pending = decompressor.unconsumed_tail
        except zlib.error as error:
            raise RefusedInputError(DropReason.BROKEN_FILE, f"damaged gzip: {error}") from error


def _bounded(blocks: Iterable[bytes]) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > MAX_SITEMAP_BYTES:
            raise RefusedInputError(
                DropReason.TOO_LARGE, f"a sitemap of more than {MAX_SITEMAP_BYTES} bytes"
            )
        if block:
            yield block


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
