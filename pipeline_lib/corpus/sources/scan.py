"""Lists the inputs of all sources and hashes those that may have changed since the last scan."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.config import SAMPLE_SOURCE, IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import Examined, SourceInput, SourceScan
from pipeline_lib.corpus.sources.buckets import FoundObject, SourceBuckets, access_explained
from pipeline_lib.corpus.sources.cache import LocalCache
from pipeline_lib.corpus.sources.containers import HEAD_BYTES, may_be_container
from pipeline_lib.corpus.sources.examining import Examiner, too_large
from pipeline_lib.corpus.sources.fetching import Fetcher
from pipeline_lib.corpus.sources.files import LocalFile
from pipeline_lib.corpus.sources.isolation import FileExaminer, IsolatedExaminer
from pipeline_lib.corpus.sources.local import (
    FoundFile,
    check_file,
    file_stamp,
    is_settled,
    list_path,
    unreadable,
)
from pipeline_lib.corpus.sources.locators import FileLocator, ObjectLocator
from pipeline_lib.corpus.sources.pages import FoundPage, Web, is_web_source
from pipeline_lib.corpus.sources.reading import source_cache
from pipeline_lib.corpus.sources.sample import sample_inputs
from pipeline_lib.corpus.sources.stamps import StampBook
from pipeline_lib.errors import InputError
from pipeline_lib.progress import NullProgress, Progress, phase
from pipeline_lib.settings import Settings

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):")
_SAMPLE_SCHEME = "sample"
_NOT_REPEATABLE = frozenset(reason.value for reason in DropReason if not reason.is_repeatable)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

Entry = SourceInput | Drop | FoundFile | FoundObject | FoundPage


def scan_sources(
    settings: Settings,
    objects: ObjectStore,
    name: str,
    config: IngestConfig,
    progress: Progress | None = None,
    *,
    fetcher: Fetcher | None = None,
    isolate: bool = True,
) -> SourceScan:
    """The inputs of all sources, in order of source, then of URI.

    What size, times, ETag or validators show to be as in the last scan is not read again.

    Args:
        settings: credentials of source buckets, and the folder for copies.
        objects: the artifact store; keeps the stamps of the last scan and the bodies of URLs.
        name: the pipeline's name: scans of one name share stamps.
        config: the sources, and what bounds them.
        progress: hears of every file, object and page.
        fetcher: for URLs; `None`: one after `config.web`.
        isolate: open archives and tables in a process of their own, which they may kill.

    Raises:
        InputError: a source does not exist, its scheme is unknown, or two inputs share a URI.
        StoreError: a bucket, or the artifact store, cannot be used.
    """
    progress = progress or NullProgress()
    inputs: list[SourceInput] = []
    drops: list[Drop] = []
    with _examiner(source_cache(settings), config, isolate) as examiner:
        scanner = _Scanner(
            settings, objects, name, config, fetcher or Fetcher(config.web), examiner
        )
        entries = [entry for source in config.sources for entry in scanner.listed(source)]
        _refuse_equal_uris(entries)
        with phase(progress, "Checking sources", total=len(entries), unit="inputs"):
            for entry in entries:
                for item in scanner.look(entry):
                    if isinstance(item, Drop):
                        drops.append(item)
                    else:
                        inputs.append(item)
                progress.advance()
    _refuse_equal_uris(inputs)
    scanner.book.save()
    return SourceScan(tuple(inputs), tuple(drops), _digest(inputs, drops), scanner.num_read)


def _examiner(
    cache: LocalCache, config: IngestConfig, isolate: bool
) -> AbstractContextManager[FileExaminer]:
    if isolate:
        return IsolatedExaminer(cache, config)
    return nullcontext(Examiner(cache, config.limits, config.records))


class _Scanner:
    """Lists sources and looks into what they list."""

    def __init__(
        self,
        settings: Settings,
        objects: ObjectStore,
        name: str,
        config: IngestConfig,
        fetcher: Fetcher,
        examiner: FileExaminer,
    ) -> None:
        self._limits = config.limits
        self._buckets = SourceBuckets(settings)
        self._cache = source_cache(settings)
        self._web = Web(fetcher, objects, self._cache, config)
        self._examiner = examiner
        self.book = StampBook(objects, name, config)
        self.num_read = 0

    def listed(self, source: str) -> Iterable[Entry]:
        """What a source names; reads no contents."""
        if source == SAMPLE_SOURCE:
            return sample_inputs()
        if source.startswith("s3://"):
            return self._buckets.listed(source)
        if is_web_source(source):
            return self._web.listed(source)
        scheme = _SCHEME.match(source)
        if scheme is not None and not os.path.lexists(source):
            raise _unknown_scheme(source, scheme["scheme"])
        return list_path(source)

    def look(self, entry: Entry) -> Iterable[Examined]:
        """The inputs and drops behind an entry."""
        match entry:
            case FoundFile():
                return self._file(entry)
            case FoundObject():
                return self._object(entry)
            case FoundPage():
                return self._page(entry)
            case _:
                return [entry]

    def _file(self, entry: FoundFile) -> Iterable[Examined]:
        status = check_file(entry)
        if isinstance(status, Drop):
            return [status]
        stamp, settled = file_stamp(entry.path, status), is_settled(status)
        known = self._known(entry.uri, stamp)
        if known is not None:
            return known
        file = LocalFile(
            uri=entry.uri,
            name=entry.path.name,
            path=entry.path,
            locator=FileLocator.of(entry.path),
        )
        try:
            found = self._examiner.examine(file)
            unchanged = file_stamp(entry.path, entry.path.stat()) == stamp
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise
            return [unreadable(entry.uri, error)]
        return self._remember(entry.uri, stamp if settled and unchanged else None, found)

    def _object(self, entry: FoundObject) -> Iterable[Examined]:
        stamp = f"{entry.etag} {entry.size_bytes}"
        known = self._known(entry.uri, stamp)
        if known is not None:
            return known
        with access_explained(entry.uri):
            blocks = self._buckets.store(entry.bucket).read_blocks(entry.key)
            head = next(blocks, b"")
            if entry.size_bytes > self._limits.max_file_bytes and not may_be_container(
                entry.key, head[:HEAD_BYTES]
            ):
                blocks.close()
                found: list[Examined] = [
                    too_large(entry.size_bytes, self._limits).to_drop(entry.uri)
                ]
                return self._remember(entry.uri, stamp, found)
            spooled = self._cache.spool(chain([head], blocks))
        locator = ObjectLocator(bucket=entry.bucket, key=entry.key, etag=entry.etag)
        file = LocalFile(
            uri=entry.uri,
            name=entry.key,
            path=spooled.path,
            locator=locator,
            sha256=spooled.sha256,
        )
        return self._remember(entry.uri, stamp, self._examiner.examine_copy(file))

    def _page(self, entry: FoundPage) -> Iterable[Examined]:
        known = self.book.get(entry.uri)
        try:
            page = self._web.fetch(entry.uri, known.stamp if known else None)
        except RefusedInputError as refusal:
            return [refusal.to_drop(entry.uri)]
        if page is None and known is not None:
            self.book.keep(entry.uri)
            return known.found
        if page is None:
            raise AssertionError("only a page that is known can be unchanged")
        return self._remember(entry.uri, page.stamp, self._examiner.examine_copy(page.file))

    def _known(self, uri: str, stamp: str) -> Iterable[Examined] | None:
        known = self.book.get(uri)
        if known is None or known.stamp != stamp:
            return None
        self.book.keep(uri)
        return known.found

    def _remember(
        self, uri: str, stamp: str | None, found: Sequence[Examined]
    ) -> Sequence[Examined]:
        self.num_read += sum(isinstance(item, SourceInput) for item in found)
        may_differ = any(isinstance(i, Drop) and i.reason in _NOT_REPEATABLE for i in found)
        if stamp is not None and not may_differ:
            self.book.put(uri, stamp, found)
        return found


def _digest(inputs: Sequence[SourceInput], drops: Sequence[Drop]) -> str:
    content = [
        [item.uri, item.content_sha256, item.media_type, item.title, dict(item.metadata)]
        for item in inputs
    ]
    refused = [[d.source_uri, d.reason] for d in drops if d.reason != DropReason.HIDDEN]
    return "sha256:" + hashlib.sha256(canonical_json([content, refused])).hexdigest()


def _refuse_equal_uris(entries: Iterable[Entry]) -> None:
    """Two inputs must not give one document id to two documents."""
    seen: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, Drop):
            continue
        place = str(entry.path) if isinstance(entry, FoundFile) else entry.uri
        if entry.uri in seen:
            raise InputError(
                f"Two inputs would both be called {entry.uri}: {seen[entry.uri]} and {place}",
                hint="Name each source once. Folders of the same name: rename one, or give "
                "the folder that holds both as the source.",
            )
        seen[entry.uri] = place


def _unknown_scheme(source: str, scheme: str) -> InputError:
    if scheme == _SAMPLE_SCHEME:
        return InputError(
            f"There is no sample corpus {source!r}", hint=f"There is {SAMPLE_SOURCE!r}."
        )
    return InputError(
        f"The source {source!r} has the scheme {scheme!r}, which ingest cannot read",
        hint="Give a folder, a file, a glob, s3://bucket/prefix, https://…, sitemap:https://…, "
        f"urls:FILE or {SAMPLE_SOURCE!r}.",
    )
