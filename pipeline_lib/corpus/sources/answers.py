"""What servers answer: pages, their validators, and the errors behind a status."""

from __future__ import annotations

import email.utils
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline_lib.corpus.drops import DropReason, RefusedInputError

if TYPE_CHECKING:
    import httpcore

REDIRECTS = (301, 302, 303, 307, 308)
_LATER = (429, 500, 502, 503, 504)
_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Validators:
    """By which a server tells that a page is what it was."""

    etag: str | None = None
    last_modified: str | None = None

    def headers(self) -> dict[str, str]:
        """Of a conditional request."""
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True)
class Page:
    """An answer whose body has not been read."""

    url: str
    """Where it was found, after redirects."""
    status: int
    """200, or 304 when the validators still hold."""
    headers: Mapping[str, str]
    """Names in lower case."""
    blocks: Iterator[bytes] = field(repr=False)
    """The body, decompressed, in blocks of bounded size."""

    @property
    def validators(self) -> Validators:
        """For the next request."""
        return Validators(self.headers.get("etag"), self.headers.get("last-modified"))


class TryLaterError(Exception):
    """The server, or the way to it, failed; another attempt may not."""

    def __init__(self, detail: str, wait_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.wait_seconds = wait_seconds


class StatusError(RefusedInputError):
    """The server answered, but not with the page."""

    def __init__(self, status: int) -> None:
        super().__init__(DropReason.FETCH_FAILED, f"the server answered {status}")
        self.status = status


def page_of(url: str, response: httpcore.Response) -> Page:
    """An answer, its body decompressed while it is read."""
    headers: dict[str, str] = {}
    for name, value in response.headers:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    raw = response.iter_stream()
    blocks = _decoded(raw, headers.get("content-encoding", "").strip().lower())
    return Page(url, response.status, headers, blocks)


def check_status(page: Page, validators: Validators | None) -> None:
    """Raise unless the answer is a page, a redirect, or the news that nothing changed.

    Raises:
        TryLaterError: the server is busy or failing.
        StatusError: it answered something else.
    """
    if page.status in _LATER:
        wait = _seconds_of(page.headers.get("retry-after"))
        raise TryLaterError(f"the server answered {page.status}", wait)
    is_answer = page.status == 200 or page.status in REDIRECTS
    if not is_answer and not (page.status == 304 and validators):
        raise StatusError(page.status)


def _seconds_of(retry_after: str | None) -> float | None:
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


def _decoded(raw: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    if encoding in ("", "identity"):
        yield from raw
        return
    if encoding not in ("gzip", "x-gzip"):
        detail = f"sent in the encoding {encoding!r}, which was not asked for"
        raise RefusedInputError(DropReason.FETCH_FAILED, detail)
    decompressor = zlib.decompressobj(wbits=31)
    try:
        for piece in raw:
            pending = piece
            while pending:
                if block := decompressor.decompress(pending, _BLOCK_BYTES):
                    yield block
                pending = decompressor.unconsumed_tail
    except zlib.error as error:
        detail = f"its compressed body is damaged: {error}"
        raise RefusedInputError(DropReason.FETCH_FAILED, detail) from error
    if not decompressor.eof:
        raise RefusedInputError(DropReason.FETCH_FAILED, "its compressed body ends early")
