"""What each kind of input yields."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pipeline_lib.corpus.parsers import ParsedDocument, parse
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources import (
    HTML,
    JSONL,
    MARKDOWN,
    PLAIN_TEXT,
    RESTRUCTURED_TEXT,
    RawInput,
)

MakeRaw = Callable[..., RawInput]

PAGE = """<!doctype html><html><head><title>Refunds &amp; returns</title></head><body>
<nav><a href="/">Home</a> <a href="/shop">Shop</a></nav>
<main><h1>Refunds</h1>
<p>You may return a parcel within <b>fourteen days</b> of its arrival, without giving a reason.</p>
<h2>How long it takes</h2>
<ul><li>Card payments take five days.</li><li>Transfers take seven days.</li></ul>
<pre><code>refund --order 17</code></pre></main>
<footer>We use cookies.</footer></body></html>"""


def parse_one(raw: RawInput, data: bytes) -> ParsedDocument:
    (item,) = parse(raw, data)
    assert isinstance(item, ParsedDocument)
    return item


@pytest.mark.parametrize("media_type", [PLAIN_TEXT, MARKDOWN, RESTRUCTURED_TEXT])
def test_text_is_kept_as_it_is(raw_input: MakeRaw, media_type: str) -> None:
    parsed = parse_one(raw_input(media_type), "# *Grüße*\n".encode())
    assert parsed.text == "# *Grüße*\n"
    assert (parsed.media_type, parsed.title, parsed.name) == (media_type, None, "page")


@pytest.mark.parametrize("media_type", [PLAIN_TEXT, MARKDOWN, HTML, JSONL])
def test_binary_content_is_a_drop(raw_input: MakeRaw, media_type: str) -> None:
    (drop,) = parse(raw_input(media_type), b"GIF89a\x00\x01")
    assert isinstance(drop, Drop)
    assert (drop.source_uri, drop.reason) == ("file:docs/page.x", "binary")


def test_html_gives_main_content_as_markdown_without_emphasis(raw_input: MakeRaw) -> None:
    parsed = parse_one(raw_input(HTML), PAGE.encode())
    assert parsed.title == "Refunds & returns"
    assert "# Refunds\n" in parsed.text
    assert "## How long it takes\n" in parsed.text
    assert "return a parcel within fourteen days of its arrival" in parsed.text
    assert "- Card payments take five days." in parsed.text
    assert "refund --order 17" in parsed.text
    assert "Shop" not in parsed.text
    assert "cookies" not in parsed.text


def test_html_extraction_is_deterministic(raw_input: MakeRaw) -> None:
    texts = {parse_one(raw_input(HTML), PAGE.encode()).text for _ in range(3)}
    assert len(texts) == 1


def test_an_html_fragment_is_read(raw_input: MakeRaw) -> None:
    parsed = parse_one(raw_input(HTML), b"<p>Refunds take 14 days.</p>")
    assert (parsed.text, parsed.title) == ("Refunds take 14 days.", None)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html><body></body></html>",
        b"<html><body><script>f()</script></body></html>",
        b"<html><body>" + b"<div>" * 5000 + b"too deep" + b"</div>" * 5000 + b"</body></html>",
    ],
)
def test_html_without_content_is_a_drop(raw_input: MakeRaw, page: bytes) -> None:
    (drop,) = parse(raw_input(HTML), page)
    assert isinstance(drop, Drop)
    assert drop.reason == "no_main_content"


def jsonl(*records: object) -> bytes:
    return "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records).encode()


def test_jsonl_gives_one_document_per_line(raw_input: MakeRaw) -> None:
    data = jsonl(
        {"text": "one", "id": 7, "title": "One", "ignored": True},
        {"text": "two", "id": "b", "source": "https://e.org/two"},
        "",
        {"text": "three", "url": "https://e.org/three"},
    )
    parsed = list(parse(raw_input(JSONL, "file:d/x.jsonl"), data))
    assert all(isinstance(item, ParsedDocument) for item in parsed)
    assert [(p.source_uri, p.text, p.title, p.name) for p in parsed] == [  # type: ignore[union-attr]
        ("file:d/x.jsonl#7", "one", "One", "7"),
        ("https://e.org/two#b", "two", None, "b"),
        ("https://e.org/three", "three", None, "x"),
    ]


def test_a_line_inserted_above_does_not_rename_records_without_id(raw_input: MakeRaw) -> None:
    raw = raw_input(JSONL)
    before = {p.source_uri for p in parse(raw, jsonl({"text": "a"}, {"text": "b"}))}
    after = {p.source_uri for p in parse(raw, jsonl({"text": "new"}, {"text": "a"}, {"text": "b"}))}
    assert len(before) == 2
    assert before < after


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("{broken", "broken_json", "line 2: Invalid JSON: key must be a string at column 2"),
        ('{"text": "cut', "broken_json", "line 2: Invalid JSON: EOF while parsing a string"),
        ('{"text": "\\ud800"}', "broken_json", "line 2: Invalid JSON"),
        ("[" * 100_000, "broken_json", "line 2: Invalid JSON: recursion limit exceeded"),
        ('{"title": "no text"}', "invalid_record", "line 2: text: Field required"),
        ('{"text": 5}', "invalid_record", "line 2: text: Input should be a valid string"),
        ('["text"]', "invalid_record", "line 2: Input should be an object"),
    ],
)
def test_a_bad_line_is_a_drop_with_its_number_and_the_others_go_on(
    raw_input: MakeRaw, line: str, reason: str, detail: str
) -> None:
    first, drop, last = parse(raw_input(JSONL), jsonl({"text": "a"}, line, {"text": "c"}))
    assert isinstance(drop, Drop)
    assert (drop.source_uri, drop.reason) == ("file:docs/page.x#line-2", reason)
    assert drop.detail.startswith(detail)
    assert isinstance(first, ParsedDocument)
    assert isinstance(last, ParsedDocument)


def test_line_separators_inside_a_json_string_do_not_end_the_line(raw_input: MakeRaw) -> None:
    data = json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False).encode()
    assert parse_one(raw_input(JSONL), data).text == "a\u2028b\x85c"


@pytest.mark.parametrize("data", [b"", b"\n \r\n"])
def test_a_jsonl_file_without_lines_is_a_drop(raw_input: MakeRaw, data: bytes) -> None:
    (drop,) = parse(raw_input(JSONL), data)
    assert isinstance(drop, Drop)
    assert drop.reason == "empty"
