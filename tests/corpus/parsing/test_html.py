"""The main content of pages, and how much nesting they may have."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pipeline_lib.corpus.parsing.base import ParsedDocument
from pipeline_lib.corpus.schema import Drop

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]

PAGE = """<!doctype html><html lang="en-GB"><head><title>Refunds &amp; returns</title>
<meta name="Description" content="How to return
a parcel"><meta name="viewport" content="x"></head><body>
<nav><a href="/">Home</a> <a href="/shop">Shop</a></nav>
<main><h1>Refunds</h1>
<p>You may return a parcel within <b>fourteen days</b> of its arrival, without giving a reason.</p>
<h2>How long it takes</h2>
<ul><li>Card payments take five days.</li><li>Transfers take seven days.</li></ul>
<table><tr><th>zone</th><th>days</th></tr><tr><td>A</td><td>3</td></tr></table>
<pre><code>refund --order 17</code></pre></main>
<footer>We use cookies.</footer></body></html>"""


def test_html_gives_main_content_as_markdown_without_emphasis(parse_one: ParseOne) -> None:
    parsed = parse_one(PAGE.encode(), "file:page.html")
    text = parsed.segments[0].text
    assert parsed.title == "Refunds & returns"
    assert parsed.language == "en"
    assert parsed.metadata == {"description": "How to return a parcel"}
    assert parsed.is_markdown
    assert "# Refunds\n" in text
    assert "## How long it takes\n" in text
    assert "return a parcel within fourteen days of its arrival" in text
    assert "- Card payments take five days." in text
    assert "| A | 3 |" in text
    assert "refund --order 17" in text
    assert "Shop" not in text
    assert "cookies" not in text


def test_html_extraction_is_deterministic(parse_one: ParseOne) -> None:
    texts = {parse_one(PAGE.encode(), "file:page.html").segments for _ in range(3)}
    assert len(texts) == 1


def test_an_html_fragment_is_read(parse_one: ParseOne) -> None:
    parsed = parse_one(b"<p>Refunds take 14 days.</p>", "file:page.html")
    assert (parsed.segments[0].text, parsed.title) == ("Refunds take 14 days.", None)


@pytest.mark.parametrize(
    "page",
    [b"", b"<html><body></body></html>", b"<html><body><script>f()</script></body></html>"],
)
def test_html_without_content_is_a_drop(refuse: Refuse, page: bytes) -> None:
    assert refuse(page, "file:page.html").reason == "no_main_content"


@pytest.mark.parametrize("tag", ["div", "b", "table", "ul", "blockquote", "svg", "x-y"])
def test_a_hundred_thousand_nested_tags_neither_crash_nor_hang(
    parse_all: Callable[..., list[ParsedDocument | Drop]], tag: str
) -> None:
    page = f"<html><body>{f'<{tag}>' * 100_000}deep inside{f'</{tag}>' * 100_000}</body></html>"
    start = time.monotonic()
    (result,) = parse_all(page.encode(), "file:page.html")
    assert time.monotonic() - start < 20
    if isinstance(result, Drop):
        assert result.reason == "no_main_content"
