"""HTTP that may be pointed anywhere: guarded, bounded and polite.

Guarded: a host is resolved once per connection, every address of it must be public, and the
connection is made to the address that was checked, so a name that resolves differently a moment
later gains nothing. Certificates are checked against the host's name. Redirects are followed by
hand, each under the same checks. Proxies in the environment are not used: they would resolve names
by themselves.

Bounded: one time limit for connecting, redirects and the whole body; the caller counts the bytes,
after decompression.

Polite: robots.txt, a least interval per host, `Retry-After`, and a User-Agent that says who asks.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from pipeline_lib.config.corpus import WebConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.sources import robots
from pipeline_lib.corpus.sources.addresses import Resolve, normal_url, resolve
from pipeline_lib.corpus.sources.answers import (
    REDIRECTS,
    Page,
    StatusError,
    TryLaterError,
    Validators,
    check_status,
    page_of,
)
from pipeline_lib.corpus.sources.robots import Robots

PRODUCT = "Raftline"
MAXREDIRECTS = 5
MAX_ATTEMPTS = 3
MAX_WAIT_SECONDS = 60.0
"""Longest pause that a `Retry-After` or a `Crawl-delay` is granted."""

T = TypeVar("T")


class Fetcher:
    """Fetches pages; may be used from several threads.

    Args:
        config: limits, rate, and whether private addresses are allowed.
        resolve: from names to addresses.
        sleep: for pauses between requests.
        clock: seconds, never going back.
        ssl_context: trust; `None`: the system's and certifi's authorities.
    """

    def __init__(
        self,
        config: WebConfig,
        *,
        resolve: Resolve = resolve,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._config = config
        self._resolve = resolve
        self._sleep = sleep
        self._clock = clock
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._free_at: dict[str, float] = {}
        self._robots: dict[str, Robots | RefusedInputError] = {}

    def fetch(
        self, url: str, receive: Callable[[Page], T], validators: Validators | None = None
    ) -> T:
        """What `receive` makes of a page; it is called again when the body breaks off.

        Args:
            url: in its normal form.
            receive: reads as much of the body as it wants.
            validators: of the copy that is here already; the page may then have status 304.

        Raises:
            RefusedInputError: the page must not or could not be fetched.
        """
        return self._with_retries(url, lambda: self._follow(url, receive, validators, True))

    def _with_retries(self, url: str, attempt: Callable[[], T]) -> T:
        for number in range(1, MAX_ATTEMPTS + 1):
            try:
                return attempt()
            except TryLaterError as error:
                wait = 2.0 ** (number - 1) if error.wait_seconds is None else error.wait_seconds
                if number == MAX_ATTEMPTS or wait > MAX_WAIT_SECONDS:
                    raise RefusedInputError(DropReason.FETCH_FAILED, error.detail) from error
                self._hold_back(url, wait)
        raise AssertionError("the last attempt returns or raises")

    def _follow(
        self,
        url: str,
        receive: Callable[[Page], T],
        validators: Validators | None,
        heed_robots: bool,
    ) -> T:
        seconds_left, first = self._config.timeout_seconds, url
        for _ in range(MAXREDIRECTS + 1):
            if heed_robots:
                self._check_robots(url)
            self._take_turn(url)
            began = self._clock()
            with self._request(url, validators, began + seconds_left) as page:
                if page.status not in REDIRECTS:
                    return receive(page)
                target = page.headers.get("location", "")
            seconds_left -= self._clock() - began
            try:
                url = normal_url(urljoin(url, target))
            except RefusedInputError as error:
                detail = f"redirected to what is not fetched: {error.detail}"
                raise RefusedInputError(error.reason, detail) from error
        raise RefusedInputError(
            DropReason.FETCH_FAILED, f"more than {MAXREDIRECTS} redirects from {first}"
        )

    @contextmanager
    def _request(self, url: str, validators: Validators | None, deadline: float) -> Iterator[Page]:
        import httpcore

        from pipeline_lib.corpus.sources.connecting import GuardedBackend

        backend = GuardedBackend(
            self._resolve,
            allow_private=self._config.allow_private_addresses,
            deadline=deadline,
            clock=self._clock,
        )
        limit = self._config.timeout_seconds
        timeouts = {"connect": limit, "read": limit, "write": limit, "pool": limit}
        headers: dict[bytes | str, bytes | str] = {
            "Host": urlsplit(url).netloc,
            "User-Agent": user_agent(),
            "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
            "Accept-Encoding": "gzip",
        }
        if validators is not None:
            headers.update(validators.headers())
        try:
            with (
                httpcore.ConnectionPool(
                    ssl_context=self._trust(), network_backend=backend, max_connections=1
                ) as pool,
                pool.stream(
                    "GET", url, headers=headers, extensions={"timeout": timeouts}
                ) as response,
            ):
                page = page_of(url, response)
                check_status(page, validators)
                yield page
        except httpcore.TimeoutException as error:
            raise TryLaterError(f"no complete answer within {limit:g} s") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise TryLaterError(f"the connection failed: {error}") from error
        except httpcore.UnsupportedProtocol as error:
            raise RefusedInputError(DropReason.FETCH_FAILED, str(error)) from error

    def _trust(self) -> ssl.SSLContext:
        import httpcore

        with self._lock:
            if self._ssl_context is None:
                self._ssl_context = httpcore.default_ssl_context()
            return self._ssl_context

    def _check_robots(self, url: str) -> None:
        if not self._robots_of(url).allows(url):
            raise RefusedInputError(
                DropReason.FORBIDDEN_BY_ROBOTS, f"{_origin(url)}/robots.txt excludes {url}"
            )

    def _robots_of(self, url: str) -> Robots:
        origin = _origin(url)
        if origin not in self._robots:
            try:
                self._robots[origin] = self._fetch_robots(origin)
            except RefusedInputError as refusal:
                self._robots[origin] = refusal
        answer = self._robots[origin]
        if isinstance(answer, RefusedInputError):
            raise RefusedInputError(answer.reason, answer.detail)
        return answer

    def _fetch_robots(self, origin: str) -> Robots:
        """By RFC 9309, 2.3.1: no file allows everything, a failing server forbids everything."""
        url = f"{origin}/robots.txt"

        def receive(page: Page) -> Robots:
            return Robots(_beginning(page.blocks), PRODUCT.lower())

        try:
            return self._with_retries(url, lambda: self._follow(url, receive, None, False))
        except StatusError as error:
            if error.status < 500:
                return Robots("", "")
            raise
        except RefusedInputError as refusal:
            if refusal.reason is DropReason.FETCH_FAILED:
                detail = f"{url}, which must be asked first: {refusal.detail}"
                raise RefusedInputError(refusal.reason, detail) from refusal
            raise

    def _take_turn(self, url: str) -> None:
        """Wait until the host may be asked again."""
        host, interval = urlsplit(url).netloc, 1 / self._config.requests_per_second
        site = self._robots.get(_origin(url))
        if isinstance(site, Robots):
            interval = max(interval, min(site.delay_seconds, MAX_WAIT_SECONDS))
        with self._lock:
            now = self._clock()
            turn = max(now, self._free_at.get(host, now))
            self._free_at[host] = turn + interval
        if turn > now:
            self._sleep(turn - now)

    def _hold_back(self, url: str, seconds: float) -> None:
        host = urlsplit(url).netloc
        with self._lock:
            self._free_at[host] = max(self._free_at.get(host, 0), self._clock() + seconds)


def user_agent() -> str:
    """How requests introduce themselves."""
    try:
        return f"{PRODUCT}/{version('raftline')}"
    except PackageNotFoundError:
        return PRODUCT


def _beginning(blocks: Iterator[bytes]) -> str:
    data = b""
    for block in blocks:
        data += block
        if len(data) >= robots.MAX_BYTES:
            break
    return data[: robots.MAX_BYTES].decode("utf-8", "replace")


def _origin(url: str) -> str:
    parts: Any = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
