"""Text is kept as it was written; what is not text is a drop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline_lib.corpus.media_types import (
    MARKDOWN,
    PLAIN_TEXT,
    RESTRUCTURED_TEXT,
    SOURCE_CODE,
)
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment, name_of
from pipeline_lib.corpus.schema import Drop

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]


@pytest.mark.parametrize(
    ("suffix", "media_type"),
    [("txt", PLAIN_TEXT), ("md", MARKDOWN), ("rst", RESTRUCTURED_TEXT), ("py", SOURCE_CODE)],
)
def test_text_is_kept_as_it_is(parse_one: ParseOne, suffix: str, media_type: str) -> None:
    parsed = parse_one("# *Grüße*\n".encode(), f"file:docs/page.{suffix}")
    assert parsed.segments == (Segment(text="# *Grüße*\n"),)
    assert (parsed.media_type, parsed.title, parsed.name) == (media_type, None, "page")
    assert parsed.is_markdown == (media_type == MARKDOWN)


@pytest.mark.parametrize(
    "text", ["שלום עולם, זה טקסט.", "هذا نص عربي.", "日本語のテキストです。", "한국어 텍스트"]
)
def test_right_to_left_and_east_asian_text_is_kept(parse_one: ParseOne, text: str) -> None:
    assert parse_one(text.encode(), "file:a.txt").segments[0].text == text
    assert parse_one(text.encode("utf-16"), "file:a.txt").segments[0].text == text


@pytest.mark.parametrize("suffix", ["txt", "md", "html", "jsonl", "csv", "py", "ipynb"])
def test_nul_bytes_are_a_drop(refuse: Refuse, suffix: str) -> None:
    drop = refuse(b"GIF89a\x00\x01", f"file:docs/page.{suffix}")
    assert (drop.source_uri, drop.reason) == (f"file:docs/page.{suffix}", "binary")


def test_bytes_that_are_no_text_encoding_are_a_drop(refuse: Refuse) -> None:
    assert refuse(bytes(range(128, 256)) * 20, "file:a.txt").reason == "unknown_encoding"


def test_invalid_utf8_is_read_in_the_encoding_it_is_in(parse_one: ParseOne) -> None:
    parsed = parse_one("Gebühr für Größe".encode("cp1252"), "file:a.txt")
    assert (parsed.segments[0].text, parsed.encoding) == ("Gebühr für Größe", "cp1252")


def test_a_server_may_declare_the_encoding(parse_one: ParseOne) -> None:
    declared = {"metadata": {"charset": "koi8-r"}}
    parsed = parse_one("Да, нет".encode("koi8_r"), "https://e.org/a.txt", **declared)
    assert (parsed.segments[0].text, parsed.encoding) == ("Да, нет", "koi8_r")


def test_code_says_its_language(parse_one: ParseOne) -> None:
    assert parse_one(b"fn main() {}\n", "file:src/main.rs").metadata == {
        "programming_language": "rust"
    }


@pytest.mark.parametrize("uri", ["file:a.exe", "file:binary", "file:data.parquet", "file:a.zip"])
def test_what_is_no_document_is_a_drop(refuse: Refuse, uri: str) -> None:
    assert refuse(b"PK\x05\x06", uri).reason == "unsupported_type"


def test_the_source_may_give_a_title(parse_one: ParseOne) -> None:
    assert parse_one(b"text", "file:a.txt", title="Terms").title == "Terms"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file:docs/page.x", "page"),
        ("file:page.x", "page"),
        ("https://e.org/a/terms.html?lang=en#top", "terms"),
        ("https://e.org/guide/", "guide"),
        ("file:docs.zip!/a/b.md", "b"),
    ],
)
def test_a_name_is_the_last_part_without_suffix(uri: str, name: str) -> None:
    assert name_of(uri) == name
