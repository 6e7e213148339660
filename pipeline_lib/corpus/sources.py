"""What `IngestConfig.sources` names: folders, files, the built-in sample.

A scan lists every input, refuses what cannot become text by its name or size, and hashes the rest.
It reads each file once and keeps none. Contents are read again, one at a time, when they are
parsed, and must then still have the hash that went into the fingerprint.

URIs are relative to the source (`file:<folder name>/<relative path>`), so the same corpus has the
same document ids wherever it lies.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.artifacts.object_store import sha256_file
from pipeline_lib.config import SAMPLE_SOURCE
from pipeline_lib.corpus.drops import DropReason
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.errors import InputError
from pipeline_lib.progress import NullProgress, Progress, phase

PLAIN_TEXT = "text/plain"
MARKDOWN = "text/markdown"
RESTRUCTURED_TEXT = "text/x-rst"
HTML = "text/html"
JSONL = "application/jsonl"

MEDIA_TYPES: dict[str, str] = {
    ".txt": PLAIN_TEXT,
    ".text": PLAIN_TEXT,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".rst": RESTRUCTURED_TEXT,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
}
"""File name suffix, lower case, to media type."""

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):")
_SAMPLE_SCHEME = "sample"


@dataclass(frozen=True, kw_only=True)
class RawInput:
    """One input that can be read; holds no content."""

    source_uri: str
    media_type: str
    content_sha256: str
    """Of the bytes at the time of the scan."""
    load: Callable[[], bytes] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Last part of the URI without its suffix: the title of last resort."""
        return PurePosixPath(self.source_uri).stem

    def read(self) -> bytes:
        """The content, unchanged since the scan.

        Raises:
            InputError: it changed or disappeared since; the fingerprint would name other content.
        """
        try:
            data = self.load()
        except OSError as error:
            raise self._changed(str(error)) from error
        if hashlib.sha256(data).hexdigest() != self.content_sha256:
            raise self._changed("its content is not what was hashed at the start")
        return data

    def _changed(self, what: str) -> InputError:
        return InputError(
            f"{self.source_uri} changed while the corpus was being read: {what}",
            hint="Run again once nothing writes to the sources any more.",
        )


@dataclass(frozen=True)
class SourceScan:
    """Everything the sources hold."""

    inputs: tuple[RawInput, ...]
    drops: tuple[Drop, ...]
    digest: str
    """Changes when an input is added, removed, renamed or edited. Hidden entries do not count:
    a desktop's folder settings must not set off a training."""


@dataclass(frozen=True)
class _Found:
    """A directory entry that may be an input."""

    uri: str
    path: Path


def scan_sources(
    sources: Sequence[str], *, max_file_bytes: int, progress: Progress | None = None
) -> SourceScan:
    """List and hash the inputs of all sources, in order of source, then of URI.

    Raises:
        InputError: a path does not exist, a scheme is unknown, or two files would get one URI.
    """
    progress = progress or NullProgress()
    listed = [entry for source in sources for entry in _list_source(source)]
    _refuse_equal_uris(listed)
    inputs: list[RawInput] = []
    drops: list[Drop] = []
    with phase(progress, "Checking sources", total=len(listed), unit="inputs"):
        for entry in listed:
            item = _admit(entry, max_file_bytes) if isinstance(entry, _Found) else entry
            if isinstance(item, Drop):
                drops.append(item)
            else:
                inputs.append(item)
            progress.advance()
    return SourceScan(tuple(inputs), tuple(drops), _digest(inputs, drops))


def _digest(inputs: Sequence[RawInput], drops: Sequence[Drop]) -> str:
    content = [[item.source_uri, item.content_sha256] for item in inputs]
    refused = [[d.source_uri, d.reason] for d in drops if d.reason != DropReason.HIDDEN]
    return "sha256:" + hashlib.sha256(canonical_json([content, refused])).hexdigest()


def _list_source(source: str) -> list[_Found | RawInput | Drop]:
    if source == SAMPLE_SOURCE:
        return list(_sample_inputs())
    path = _existing_path(source)
    name = path.name if path.name not in ("", "..") else path.resolve().name
    if path.is_dir():
        entries = list(_walk(path, _uri_part(name)))
        return sorted(entries, key=lambda e: e.uri if isinstance(e, _Found) else e.source_uri)
    return [_Found(f"file:{_uri_part(name)}", path)]


def _existing_path(source: str) -> Path:
    try:
        path = Path(source).expanduser()
        path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # of stat, stat, expanduser
        scheme = _SCHEME.match(source)
        if scheme is not None:
            raise _unknown_scheme(source, scheme["scheme"]) from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"The source {source!r} cannot be read on this machine: {reason}",
            hint=f"Paths are read where the ingest task runs: on the worker, in {Path.cwd()}.",
        ) from error
    return path


def _unknown_scheme(source: str, scheme: str) -> InputError:
    if scheme == _SAMPLE_SCHEME:
        return InputError(
            f"There is no sample corpus {source!r}", hint=f"There is {SAMPLE_SOURCE!r}."
        )
    return InputError(
        f"The source {source!r} has the scheme {scheme!r}, which ingest cannot read",
        hint=f"Give a folder, a file ({', '.join(MEDIA_TYPES)}) or {SAMPLE_SOURCE!r}.",
    )


def _walk(folder: Path, name: str) -> Iterator[_Found | Drop]:
    def uri(path: Path) -> str:
        return f"file:{name}/{_uri_part(path.relative_to(folder).as_posix())}"

    refused: list[OSError] = []
    for here, folders, files in os.walk(folder, onerror=refused.append):
        descend = []
        for child in folders:
            path = Path(here, child)
            if child.startswith("."):
                yield _hidden(uri(path))
            elif path.is_symlink():
                yield Drop(
                    source_uri=uri(path),
                    reason=DropReason.FOLDER_LINK.value,
                    detail="links to folders are not followed; name the target as a source",
                )
            else:
                descend.append(child)
        folders[:] = descend
        for child in files:
            path = Path(here, child)
            yield _hidden(uri(path)) if child.startswith(".") else _Found(uri(path), path)
    for error in refused:
        yield _unreadable(uri(Path(error.filename)), error)


def _admit(found: _Found, max_file_bytes: int) -> RawInput | Drop:
    """Hash a file, unless its name, kind or size rules it out."""
    path, suffix = found.path, found.path.suffix.lower()
    media_type = MEDIA_TYPES.get(suffix)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return _drop(found, DropReason.NOT_A_FILE, "a pipe, socket or device")
        if media_type is None:
            kind = f"type {suffix!r}" if suffix else "a name without suffix"
            detail = f"{kind} is not supported; supported are {', '.join(MEDIA_TYPES)}"
            return _drop(found, DropReason.UNSUPPORTED_TYPE, detail)
        if status.st_size > max_file_bytes:
            detail = f"{status.st_size} bytes; ingest.max_file_bytes is {max_file_bytes}"
            return _drop(found, DropReason.TOO_LARGE, detail)
        content_sha256 = sha256_file(path)
    except OSError as error:
        return _unreadable(found.uri, error)
    return RawInput(
        source_uri=found.uri,
        media_type=media_type,
        content_sha256=content_sha256,
        load=path.read_bytes,
    )


def _sample_inputs() -> Iterator[RawInput]:
    """Python's language reference, as every CPython carries it (PSF License)."""
    from pydoc_data.topics import topics

    def loader(page: str) -> Callable[[], bytes]:
        return lambda: topics[page].encode()

    for page in sorted(topics):
        yield RawInput(
            source_uri=f"{SAMPLE_SOURCE}/{page}",
            media_type=PLAIN_TEXT,
            content_sha256=hashlib.sha256(topics[page].encode()).hexdigest(),
            load=loader(page),
        )


def _refuse_equal_uris(listed: Sequence[_Found | RawInput | Drop]) -> None:
    """Two sources must not give one document id to two documents."""
    seen: dict[str, str] = {}
    for entry in listed:
        if isinstance(entry, Drop):
            continue
        uri = entry.uri if isinstance(entry, _Found) else entry.source_uri
        place = str(entry.path) if isinstance(entry, _Found) else "the sample corpus"
        if uri in seen:
            raise InputError(
                f"Two inputs would both be called {uri}: {seen[uri]} and {place}",
                hint="Name each source once. Folders of the same name: rename one, or give "
                "the folder that holds both as the source.",
            )
        seen[uri] = place


def _uri_part(name: str) -> str:
    """A file name as text: composed (macOS decomposes), undecodable bytes as backslash escapes."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _drop(found: _Found, reason: DropReason, detail: str) -> Drop:
    return Drop(source_uri=found.uri, reason=reason.value, detail=detail)


def _hidden(uri: str) -> Drop:
    detail = "names that begin with a dot are skipped"
    return Drop(source_uri=uri, reason=DropReason.HIDDEN.value, detail=detail)


def _unreadable(uri: str, error: OSError) -> Drop:
    detail = error.strerror or type(error).__name__
    return Drop(source_uri=uri, reason=DropReason.UNREADABLE.value, detail=detail)
