"""Fetching is guarded, bounded and polite: against real servers on loopback."""

from __future__ import annotations

import gzip
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpcore
import pytest

from pipeline_lib.config.corpus import WebConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.sources import addresses
from pipeline_lib.corpus.sources.answers import Page, Validators
from pipeline_lib.corpus.sources.fetching import Fetcher, user_agent

MakeFetcher = Callable[..., Fetcher]


def body(page: Page) -> bytes:
    return b"".join(page.blocks)


def refused(fetcher: Fetcher, url: str) -> tuple[str, str]:
    with pytest.raises(RefusedInputError) as caught:
        fetcher.fetch(url, body)
    return caught.value.reason.value, caught.value.detail


# Guarded


def test_a_private_address_is_refused_without_a_connection(web: Any) -> None:
    url = web.put("/a", b"secret")
    reason, detail = refused(Fetcher(WebConfig()), url)
    assert reason == "forbidden_address"
    assert "127.0.0.1" in detail
    assert web.requests == []


def test_a_private_address_is_fetched_when_allowed(web: Any, make_fetcher: MakeFetcher) -> None:
    url = web.put("/a", b"page", Content_Type="text/html")
    seen = make_fetcher().fetch(url, lambda page: (page.url, page.headers, body(page)))
    assert seen[0] == url
    assert seen[1]["content-type"] == "text/html"
    assert seen[2] == b"page"
    assert web.requests[-1].headers["user-agent"] == user_agent()
    assert user_agent().startswith("Raftline")


@pytest.fixture
def public_server(serve: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server at 127.0.0.2, which counts as public here; 127.0.0.1 does not."""
    judge = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda text: text == "127.0.0.2" or judge(text))
    with serve("127.0.0.2") as server:
        yield server


@pytest.mark.parametrize("hops", [1, 2])
def test_a_redirect_to_loopback_is_refused(
    public_server: Any, web: Any, make_fetcher: MakeFetcher, hops: int
) -> None:
    web.put("/admin", b"secret")
    start = public_server.put("/0", status=302, Location="/1" if hops == 2 else f"{web.url}/admin")
    public_server.put("/1", status=307, Location=f"{web.url}/admin")
    reason, detail = refused(make_fetcher(allow_private_addresses=False), start)
    assert (reason, "127.0.0.1" in detail) == ("forbidden_address", True)
    assert len(public_server.paths()) == hops
    assert web.requests == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.2/", "http://u:p@x/"])
def test_a_redirect_to_what_is_no_web_page_is_refused(
    web: Any, make_fetcher: MakeFetcher, target: str
) -> None:
    url = web.put("/a", status=302, Location=target)
    reason, detail = refused(make_fetcher(), url)
    assert (reason, "redirected" in detail) == ("fetch_failed", True)


def test_redirects_are_followed_but_not_for_ever(web: Any, make_fetcher: MakeFetcher) -> None:
    for hop in range(10):
        web.put(f"/{hop}", status=301, Location=f"/{hop + 1}")
    web.put("/10", b"end")
    assert make_fetcher().fetch(f"{web.url}/5", body) == b"end"
    reason, detail = refused(make_fetcher(), f"{web.url}/4")
    assert (reason, "more than 5 redirects" in detail) == ("fetch_failed", True)


def test_the_connection_goes_to_the_address_that_was_checked(
    web: Any, make_fetcher: MakeFetcher
) -> None:
    """The system cannot resolve this name, so nothing but the checked answer was used."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    web.put("/a", b"page")
    url = f"http://pages.test:{web.port}/a"
    assert make_fetcher(resolve).fetch(url, body) == b"page"
    assert [request.headers["host"] for request in web.requests] == [f"pages.test:{web.port}"] * 2
    assert asked == ["pages.test"] * 2  # for robots.txt and for the page


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(
    web: Any, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["93.184.215.14", *["127.0.0.1"] * 99])
    tried: list[str] = []

    def connect(_self: object, host: str, *_: object) -> httpcore.NetworkStream:
        tried.append(host)
        raise httpcore.ConnectError("nobody there")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    web.put("/a", b"secret")
    fetcher = make_fetcher(lambda host, port: [next(answers)], allow_private_addresses=False)
    reason, _ = refused(fetcher, f"http://rebind.test:{web.port}/a")
    assert reason == "forbidden_address"  # at the second attempt, after a new look-up
    assert tried == ["93.184.215.14"]


@pytest.fixture
def tls_server(serve: Any, tmp_path: Path) -> Iterator[tuple[Any, ssl.SSLContext]]:
    """A server with a certificate for `pages.test`, and a context that trusts it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", "/CN=pages.test", "-addext", "subjectAltName=DNS:pages.test",
         "-keyout", str(key), "-out", str(certificate), "-days", "1"],
        check=True, capture_output=True,
    )  # fmt: skip
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    offered.load_cert_chain(certificate, key)
    with serve("127.0.0.1", offered) as server:
        yield server, ssl.create_default_context(cafile=str(certificate))


def test_certificates_are_checked_against_the_name_not_the_address(
    tls_server: tuple[Any, ssl.SSLContext], make_fetcher: MakeFetcher
) -> None:
    server, trust = tls_server
    server.put("/a", b"page")

    def fetch(host: str, context: ssl.SSLContext | None) -> bytes:
        fetcher = make_fetcher(lambda host, port: ["127.0.0.1"], ssl_context=context)
        return fetcher.fetch(f"https://{host}:{server.port}/a", body)

    assert fetch("pages.test", trust) == b"page"
    with pytest.raises(RefusedInputError, match="certificate"):
        fetch("other.test", trust)
    with pytest.raises(RefusedInputError, match="certificate"):
        fetch("pages.test", None)


def test_the_next_address_is_tried_when_one_does_not_answer(
    web: Any, make_fetcher: MakeFetcher
) -> None:
    web.put("/a", b"page")
    fetcher = make_fetcher(lambda host, port: ["127.0.0.3", "127.0.0.1"])
    assert fetcher.fetch(f"http://pages.test:{web.port}/a", body) == b"page"


# Bounded


def test_a_body_that_trickles_in_for_ever_is_cut_off_by_the_time_limit(web: Any) -> None:
    def trickle(write: Callable[[bytes], object]) -> None:
        for _ in range(200):
            write(b"x")
            time.sleep(0.05)

    url = web.put("/a", trickle)
    config = WebConfig(allow_private_addresses=True, timeout_seconds=0.3, requests_per_second=100)
    began = time.monotonic()
    reason, detail = refused(Fetcher(config, sleep=lambda seconds: None), url)
    assert (reason, "0.3 s" in detail) == ("fetch_failed", True)
    assert time.monotonic() - began < 5


def test_headers_that_trickle_in_for_ever_are_cut_off_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = WebConfig(allow_private_addresses=True, timeout_seconds=0.3)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        reason, _ = refused(Fetcher(config, sleep=lambda seconds: None), url)  # never accepted
    assert reason == "fetch_failed"


def test_a_compressed_body_comes_in_small_blocks(web: Any, make_fetcher: MakeFetcher) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    url = web.put("/a", bomb, Content_Encoding="gzip")

    def first_megabyte(page: Page) -> int:
        size = 0
        for block in page.blocks:
            assert len(block) <= 1 << 18
            size += len(block)
            if size > 1_000_000:
                return size
        raise AssertionError("it ended")

    assert make_fetcher().fetch(url, first_megabyte) < 1_500_000


def test_compressed_bodies_are_decompressed(web: Any, make_fetcher: MakeFetcher) -> None:
    url = web.put("/a", gzip.compress(b"page"), Content_Encoding="gzip")
    assert make_fetcher().fetch(url, body) == b"page"
    assert web.requests[-1].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        ("br", b"x", "not asked for"),
        ("gzip", b"not gzip", "damaged"),
        ("gzip", gzip.compress(b"page" * 99, mtime=0)[:-9], "ends early"),
    ],
    ids=["unknown", "damaged", "cut"],
)
def test_a_body_that_cannot_be_decompressed_is_refused(
    web: Any, make_fetcher: MakeFetcher, encoding: str, data: bytes, expected: str
) -> None:
    url = web.put("/a", data, Content_Encoding=encoding)
    assert expected in refused(make_fetcher(), url)[1]


def test_a_connection_that_breaks_off_is_tried_again(web: Any, make_fetcher: MakeFetcher) -> None:
    answers = iter([web.Answer(b"", headers={"Content-Length": "99"}), web.Answer(b"whole")])
    web.routes["/a"] = lambda request: next(answers)
    assert make_fetcher().fetch(f"{web.url}/a", body) == b"whole"


def test_a_host_that_does_not_answer_is_a_failure(make_fetcher: MakeFetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    reason, detail = refused(make_fetcher(), f"http://127.0.0.1:{port}/")
    assert reason == "fetch_failed"
    assert "robots.txt" in detail


# Polite


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_an_error_status_is_a_failure_and_final(
    web: Any, make_fetcher: MakeFetcher, status: int
) -> None:
    url = web.put("/a", b"", status)
    assert refused(make_fetcher(), url) == ("fetch_failed", f"the server answered {status}")
    assert web.paths() == ["/a"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_three_times_at_growing_intervals(
    web: Any, make_fetcher: MakeFetcher, fake_time: Any, status: int
) -> None:
    url = web.put("/a", b"", status)
    fetcher = make_fetcher(requests_per_second=100)
    assert refused(fetcher, url) == ("fetch_failed", f"the server answered {status}")
    assert web.paths() == ["/a"] * 3
    assert fake_time.slept == pytest.approx([0.01, 1, 2])


def test_retry_after_is_waited_for(web: Any, make_fetcher: MakeFetcher, fake_time: Any) -> None:
    answers = iter(
        [
            web.Answer(b"", 503, {"Retry-After": "7"}),
            web.Answer(b"", 429, {"Retry-After": formatdate(time.time() + 20, usegmt=True)}),
            web.Answer(b"page"),
        ]
    )
    web.routes["/a"] = lambda request: next(answers)
    assert make_fetcher().fetch(f"{web.url}/a", body) == b"page"
    assert fake_time.slept[-2:] == [pytest.approx(7), pytest.approx(20, abs=2)]


def test_nobody_waits_for_an_hour(web: Any, make_fetcher: MakeFetcher, fake_time: Any) -> None:
    url = web.put("/a", b"", 503, Retry_After="3600")
    assert refused(make_fetcher(), url)[0] == "fetch_failed"
    assert web.paths() == ["/a"]
    assert sum(fake_time.slept) < 2


def test_requests_to_one_host_keep_their_distance(
    web: Any, make_fetcher: MakeFetcher, fake_time: Any
) -> None:
    url = web.put("/a", b"page")
    fetcher = make_fetcher(requests_per_second=0.5)
    for _ in range(3):
        fetcher.fetch(url, body)
    assert fake_time.slept == [2, 2, 2]  # robots.txt was the first of the four


def test_a_crawl_delay_is_kept(web: Any, make_fetcher: MakeFetcher, fake_time: Any) -> None:
    web.put("/robots.txt", b"User-agent: *\nCrawl-delay: 5\n")
    url, fetcher = web.put("/a", b"page"), make_fetcher(requests_per_second=1)
    for _ in range(3):
        fetcher.fetch(url, body)
    assert fake_time.slept == [1, 5, 5]


def test_what_robots_txt_excludes_is_not_fetched(web: Any, make_fetcher: MakeFetcher) -> None:
    web.put("/robots.txt", b"User-agent: raftline\nDisallow: /private\n")
    web.put("/private/a", b"page")
    public = web.put("/public", status=302, Location="/private/a")
    for url in (f"{web.url}/private/a", public):
        reason, detail = refused(make_fetcher(), url)
        assert reason == "forbidden_by_robots"
        assert f"{web.url}/robots.txt" in detail
    assert web.paths() == ["/public"]


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_site_without_robots_txt_allows_everything(
    web: Any, make_fetcher: MakeFetcher, status: int
) -> None:
    web.put("/robots.txt", b"User-agent: *\nDisallow: /\n", status)
    assert make_fetcher().fetch(web.put("/a", b"page"), body) == b"page"


def test_a_site_whose_robots_txt_fails_is_left_alone_and_asked_once(
    web: Any, make_fetcher: MakeFetcher
) -> None:
    web.put("/robots.txt", b"", 501)
    url, fetcher = web.put("/a", b"page"), make_fetcher()
    for _ in range(2):
        assert refused(fetcher, url)[0] == "fetch_failed"
    assert [request.path for request in web.requests] == ["/robots.txt"]


def test_a_conditional_request_carries_the_validators(web: Any, make_fetcher: MakeFetcher) -> None:
    url = web.put("/a", b"page", ETag='"1"', Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    fetcher = make_fetcher()
    validators = fetcher.fetch(url, lambda page: page.validators)
    assert validators == Validators('"1"', "Mon, 01 Jan 2024 00:00:00 GMT")
    web.put("/a", status=304)
    assert fetcher.fetch(url, lambda page: page.status, validators) == 304
    sent = web.requests[-1].headers
    assert sent["if-none-match"] == '"1"'
    assert sent["if-modified-since"] == "Mon, 01 Jan 2024 00:00:00 GMT"


def test_an_unasked_304_is_a_failure(web: Any, make_fetcher: MakeFetcher) -> None:
    assert refused(make_fetcher(), web.put("/a", status=304))[0] == DropReason.FETCH_FAILED
