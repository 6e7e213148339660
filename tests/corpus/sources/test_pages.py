"""URLs, lists of URLs and sitemaps as sources."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.corpus.sources.base import SourceInput, SourceScan
from pipeline_lib.corpus.sources.fetching import Fetcher
from pipeline_lib.errors import InputError

Scan = Callable[..., SourceScan]
Read = Callable[[SourceInput], bytes]
MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
def scan_web(scan: Scan, make_fetcher: MakeFetcher) -> Scan:
    """Scan with a fetcher that may use loopback."""

    def run(*sources: object, **config: Any) -> SourceScan:
        web = {"allow_private_addresses": True, **config.pop("web", {})}
        return scan(*sources, fetcher=make_fetcher(**web), web=web, **config)

    return run


def reasons(result: SourceScan) -> dict[str, str]:
    return {drop.source_uri: drop.reason for drop in result.drops}


def sitemap(*urls: str) -> bytes:
    entries = "".join(f"<url><loc>{url}</loc></url>" for url in urls)
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return f'<?xml version="1.0"?><urlset xmlns="{space}">{entries}</urlset>'.encode()


def index(*urls: str) -> bytes:
    entries = "".join(f"<sitemap><loc> {url} </loc></sitemap>" for url in urls)
    return f"<sitemapindex>{entries}</sitemapindex>".encode()


def test_a_page_is_fetched_once_and_read_from_the_store(
    scan_web: Scan, read_elsewhere: Read, web: Any
) -> None:
    url = web.put("/guide", "<p>é</p>".encode("latin-1"), Content_Type="text/html; charset=latin-1")
    (item,) = scan_web(f"{url}#part").inputs
    assert (item.uri, item.media_type) == (url, "text/html")
    assert item.metadata == {"charset": "latin-1"}
    del web.routes["/guide"]
    assert read_elsewhere(item) == b"<p>\xe9</p>"


def test_a_page_that_cannot_be_fetched_is_a_drop(scan_web: Scan, web: Any) -> None:
    result = scan_web(f"{web.url}/gone")
    assert reasons(result) == {f"{web.url}/gone": "fetch_failed"}
    assert "404" in result.drops[0].detail


def test_private_addresses_are_refused_unless_allowed(scan: Scan, web: Any) -> None:
    url = web.put("/a", b"secret")
    assert reasons(scan(url)) == {url: "forbidden_address"}
    assert web.requests == []


def test_an_unchanged_page_is_not_sent_again(
    scan_web: Scan, web: Any, objects: ObjectStore
) -> None:
    def answer(request: Any) -> Any:
        is_known = request.headers.get("if-none-match") == '"1"'
        return web.Answer(b"" if is_known else b"one", 304 if is_known else 200, {"ETag": '"1"'})

    web.routes["/a"] = answer
    first, second = scan_web(f"{web.url}/a"), scan_web(f"{web.url}/a")
    assert (first.num_read, second.num_read) == (1, 0)
    assert (second.inputs, second.digest) == (first.inputs, first.digest)
    assert len(web.paths()) == 2

    (item,) = first.inputs
    objects.delete([f"_fetched/{item.content_sha256}"])
    assert scan_web(f"{web.url}/a").num_read == 1  # what is not in the store is fetched again


def test_a_changed_page_is_read_again(scan_web: Scan, read: Read, web: Any) -> None:
    first = scan_web(web.put("/a", b"one", ETag='"1"'))
    second = scan_web(web.put("/a", b"two", ETag='"2"'))
    assert [read(item) for item in (*first.inputs, *second.inputs)] == [b"one", b"two"]
    assert first.digest != second.digest


def test_headers_that_change_with_every_answer_leave_the_digest_alone(
    scan_web: Scan, web: Any
) -> None:
    first = scan_web(web.put("/a", b"one", ETag='"1"', Last_Modified="yesterday"))
    second = scan_web(web.put("/a", b"one", ETag='"2"', Last_Modified="today"))
    assert first.digest == second.digest


def test_a_page_that_is_too_large_is_a_drop(scan_web: Scan, web: Any, tmp_path: Path) -> None:
    url = web.put("/a", gzip.compress(b"x" * 5_000_000), Content_Encoding="gzip")
    result = scan_web(url, limits={"max_file_bytes": 1_000_000})
    assert reasons(result) == {url: "too_large"}
    assert not list((tmp_path / "home").rglob("*.part"))


def test_archives_and_records_on_the_web_are_opened(
    scan_web: Scan, read_elsewhere: Read, web: Any
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.md", "a")
    packed = web.put("/d?format=zip", buffer.getvalue())
    lines = web.put("/export", b'{"text": "r"}\n', Content_Type="application/x-ndjson")
    result = scan_web(packed, lines)
    assert [item.uri.partition("#")[0] for item in result.inputs] == [f"{packed}!/a.md", lines]
    assert [read_elsewhere(item) for item in result.inputs] == [b"a", b'{"text": "r"}\n']


def test_a_list_of_urls_may_have_comments_and_repeats(
    scan_web: Scan, web: Any, tmp_path: Path
) -> None:
    urls = [web.put(f"/{name}", name.encode()) for name in "ba"]
    path = tmp_path / "list.txt"
    path.write_text("\n".join(["# pages", *urls, "", f"{urls[0]}#x", "https://u:pass@h/x"]))
    result = scan_web(f"urls:{path}")
    assert [item.uri for item in result.inputs] == sorted(urls)
    assert reasons(result) == {"https://h/x": "fetch_failed"}


def test_a_missing_list_of_urls_is_an_error(scan_web: Scan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"list of URLs .*gone\.txt"):
        scan_web(f"urls:{tmp_path}/gone.txt")


def test_a_source_with_a_password_is_an_error_that_does_not_show_it(scan_web: Scan) -> None:
    with pytest.raises(InputError) as caught:
        scan_web("https://user:hidden@example.org/")
    assert "hidden" not in str(caught.value)


def test_the_pages_of_a_sitemap_are_inputs(scan_web: Scan, web: Any) -> None:
    pages = [web.put(f"/{name}?q=1&amp;r=2".replace("amp;", ""), b"x") for name in "cab"]
    url = web.put("/sitemap.xml", sitemap(*(page.replace("&", "&amp;") for page in pages)))
    assert [item.uri for item in scan_web(f"sitemap:{url}").inputs] == sorted(pages)


def test_sitemaps_of_sitemaps_are_followed_also_compressed_and_as_text(
    scan_web: Scan, web: Any
) -> None:
    pages = [web.put(f"/{name}", name.encode()) for name in "abc"]
    parts = [
        web.put("/1.xml", sitemap(pages[0])),
        web.put("/2.xml.gz", gzip.compress(sitemap(pages[1], pages[0]))),
        web.put("/3.txt", pages[2].encode() + b"\n"),
    ]
    url = web.put("/index.xml", index(*parts, parts[0]))
    result = scan_web(f"sitemap:{url}")
    assert [item.uri for item in result.inputs] == pages
    assert web.paths().count("/1.xml") == web.paths().count("/a") == 1
    assert result.drops == ()


def test_a_sitemap_that_loops_is_a_drop_and_ends(scan_web: Scan, web: Any) -> None:
    page = web.put("/a", b"x")
    urls = [f"{web.url}/{n}.xml" for n in range(3)]
    web.put("/0.xml", index(urls[1], urls[0]))
    web.put("/1.xml", index(urls[2]))
    web.put("/2.xml", index(urls[0], f"{web.url}/pages.xml"))
    web.put("/pages.xml", sitemap(page))
    result = scan_web(f"sitemap:{urls[0]}")
    assert [item.uri for item in result.inputs] == [page]
    assert [(drop.source_uri, drop.reason) for drop in result.drops] == [
        (urls[0], "fetch_failed"),
        (urls[0], "fetch_failed"),
    ]
    assert all("lists itself" in drop.detail for drop in result.drops)
    assert len(web.paths()) == 5


def test_pages_beyond_the_limit_are_counted_in_one_drop(scan_web: Scan, web: Any) -> None:
    pages = [web.put(f"/{n}", b"x") for n in range(5)]
    url = web.put("/s.xml", sitemap(*pages))
    result = scan_web(f"sitemap:{url}", web={"max_urls": 2})
    assert [item.uri for item in result.inputs] == pages[:2]
    assert reasons(result) == {url: "too_many_urls"}
    assert result.drops[0].detail.startswith("3 URLs")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html><body>Not found</body></html>", "broken_file"),
        (b"<urlset><url>", "broken_file"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><urlset><url><loc>&a;</loc></url></urlset>', None),
        (gzip.compress(bytes(60_000_000), mtime=0), "too_large"),
    ],
    ids=["page", "cut", "entity", "bomb"],
)
def test_what_is_no_sitemap_is_a_drop(
    scan_web: Scan, web: Any, body: bytes, reason: str | None
) -> None:
    url = web.put("/s.xml", body)
    result = scan_web(f"sitemap:{url}")
    assert result.inputs == ()
    assert reasons(result) == ({url: reason} if reason else {})


def test_a_sitemap_cannot_reach_private_addresses(scan: Scan, web: Any) -> None:
    url = web.put("/s.xml", sitemap("http://169.254.169.254/latest/meta-data/"))
    assert reasons(scan(f"sitemap:{url}")) == {url: "forbidden_address"}
