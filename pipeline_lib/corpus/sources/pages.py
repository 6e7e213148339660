"""URLs as sources: single pages, lists in a file, sitemaps.

A page's body is fetched at the scan, once, and kept in the artifact store under its hash; parsers
read it from there. The next scan asks the server only whether the page has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from email.message import Message
from itertools import chain
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError, make_drop
from pipeline_lib.corpus.media_types import JSONL
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.addresses import normal_url, without_credentials
from pipeline_lib.corpus.sources.answers import Page, Validators
from pipeline_lib.corpus.sources.cache import LocalCache, Spooled
from pipeline_lib.corpus.sources.containers import HEAD_BYTES, may_be_container
from pipeline_lib.corpus.sources.examining import too_large
from pipeline_lib.corpus.sources.fetching import Fetcher
from pipeline_lib.corpus.sources.files import LocalFile
from pipeline_lib.corpus.sources.locators import FetchedLocator
from pipeline_lib.corpus.sources.reading import FETCHED_PREFIX
from pipeline_lib.corpus.sources.sitemaps import list_sitemap
from pipeline_lib.errors import InputError

_LIST, _SITEMAP = "urls:", "sitemap:"
_JSONL_TYPES = (JSONL, "application/x-ndjson", "application/x-jsonlines", "application/jsonlines")
_UNTOLD_TYPES = ("", "application/octet-stream", "binary/octet-stream")


@dataclass(frozen=True)
class FoundPage:
    """A URL that may be an input."""

    uri: str


@dataclass(frozen=True)
class _Received:
    """A page's body on disk, and what its server says of it."""

    spooled: Spooled
    name: str
    media_type: str | None
    metadata: dict[str, str]
    validators: Validators


@dataclass(frozen=True)
class FetchedPage:
    """A page that is in the artifact store."""

    file: LocalFile
    """A temporary copy."""
    stamp: str | None
    """`None` when its server gives no means to ask for changes."""


class Web:
    """Lists and fetches pages."""

    def __init__(
        self, fetcher: Fetcher, objects: ObjectStore, cache: LocalCache, config: IngestConfig
    ) -> None:
        self._fetcher = fetcher
        self._objects = objects
        self._cache = cache
        self._limits = config.limits
        self._max_urls = config.web.max_urls

    def listed(self, source: str) -> Iterable[FoundPage | Drop]:
        """The pages that a source names, each once.

        Raises:
            InputError: the source is not a URL, or its list cannot be read.
        """
        if source.startswith(_LIST):
            return self._list_file(source)
        if not source.startswith(_SITEMAP):
            return [FoundPage(_source_url(source))]
        start = _source_url(source.removeprefix(_SITEMAP))
        pages = list_sitemap(
            start,
            lambda url, read: self._fetcher.fetch(url, lambda page: read(page.blocks)),
            self._max_urls,
        )
        return [FoundPage(page) if isinstance(page, str) else page for page in pages]

    def fetch(self, uri: str, stamp: str | None) -> FetchedPage | None:
        """Bring a page into the artifact store; `None` when it is there and has not changed.

        Args:
            uri: in its normal form.
            stamp: of the last scan.

        Raises:
            RefusedInputError: it must not or could not be fetched, or is too large.
        """
        received = self._fetcher.fetch(uri, self._receive, self._validators(stamp))
        if received is None:
            return None
        spooled = received.spooled
        key = f"{FETCHED_PREFIX}{spooled.sha256}"
        if not self._objects.exists(key):
            self._objects.put_file(key, spooled.path)
        file = LocalFile(
            uri=uri,
            name=received.name,
            path=spooled.path,
            locator=FetchedLocator(sha256=spooled.sha256),
            sha256=spooled.sha256,
            media_type=received.media_type,
            metadata=received.metadata,
        )
        return FetchedPage(file, _stamp(received.validators, spooled.sha256))

    def _list_file(self, source: str) -> list[FoundPage | Drop]:
        path = Path(source.removeprefix(_LIST)).expanduser()
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(
                f"The list of URLs {str(path)!r} cannot be read: {error}",
                hint="Give a UTF-8 text file with one URL a line, on the worker.",
            ) from error
        pages: dict[str, None] = {}
        drops = []
        for line in map(str.strip, lines):
            if not line or line.startswith("#"):
                continue
            try:
                pages[normal_url(line)] = None
            except RefusedInputError as refusal:
                drops.append(refusal.to_drop(without_credentials(line)))
        wanted = sorted(pages)[: self._max_urls]
        if len(wanted) < len(pages):
            detail = (
                f"{len(pages) - len(wanted)} URLs beyond ingest.web.max_urls = {self._max_urls} "
                "were left out"
            )
            drops.append(make_drop(source, DropReason.TOO_MANY_URLS, detail))
        return [*map(FoundPage, wanted), *drops]

    def _validators(self, stamp: str | None) -> Validators | None:
        """Those of a stamp whose page is still in the store."""
        if stamp is None:
            return None
        fields = json.loads(stamp)
        if not self._objects.exists(f"{FETCHED_PREFIX}{fields.pop('sha256')}"):
            return None
        return Validators(**fields)

    def _receive(self, page: Page) -> _Received | None:
        if page.status == 304:
            return None
        declared = Message()
        declared["content-type"] = page.headers.get("content-type", "")
        media_type = declared.get_content_type() if page.headers.get("content-type") else ""
        name = _name(page.url, media_type)
        metadata = {}
        charset = declared.get_content_charset()
        if charset:
            metadata["charset"] = charset
        return _Received(
            self._cache.spool(self._bounded(name, page.blocks)),
            name,
            None if media_type in _UNTOLD_TYPES else media_type,
            metadata,
            page.validators,
        )

    def _bounded(self, name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
        head = b""
        for block in blocks:
            head += block
            if len(head) >= HEAD_BYTES:
                break
        limit = self._limits.max_file_bytes
        if may_be_container(name, head[:HEAD_BYTES]):
            limit = self._limits.max_unpacked_bytes
        size = 0
        for block in chain([head], blocks):
            size += len(block)
            if size > limit:
                raise too_large(size, self._limits)
            yield block


def is_web_source(source: str) -> bool:
    """Whether a source is a URL, a sitemap or a list of URLs."""
    return source.lower().startswith(("http://", "https://", _SITEMAP, _LIST))


def _source_url(text: str) -> str:
    try:
        return normal_url(text)
    except RefusedInputError as refusal:
        raise InputError(
            f"The source {without_credentials(text)!r} cannot be fetched: {refusal.detail}",
            hint="Give an http or https address without user name and password.",
        ) from refusal


def _name(url: str, media_type: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name or "index"
    return f"{name}.jsonl" if media_type in _JSONL_TYPES and "." not in name else name


def _stamp(validators: Validators, sha256: str) -> str | None:
    if not validators.headers():
        return None
    return json.dumps({**asdict(validators), "sha256": sha256}, sort_keys=True)
