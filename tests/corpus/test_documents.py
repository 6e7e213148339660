"""From parsed text to documents: titles, emptiness, duplicates."""

from __future__ import annotations

import hashlib

import pytest

from pipeline_lib.corpus.documents import Deduplicator, build_document, document_id
from pipeline_lib.corpus.parsers import ParsedDocument
from pipeline_lib.corpus.schema import Document, Drop
from pipeline_lib.corpus.sources import MARKDOWN


def parsed(text: str, title: str | None = None, uri: str = "file:d/a.md") -> ParsedDocument:
    return ParsedDocument(
        source_uri=uri, media_type=MARKDOWN, text=text, title=title, name="a", encoding="utf-8"
    )


def build(text: str, title: str | None = None, uri: str = "file:d/a.md") -> Document:
    document = build_document(parsed(text, title, uri))
    assert isinstance(document, Document)
    return document


def test_a_document_holds_cleaned_text_and_its_hash() -> None:
    document = build("# Title \r\n\r\ncafe\u0301")
    assert document.text == "# Title\n\ncaf\u00e9"
    assert document.content_sha256 == hashlib.sha256("# Title\n\ncaf\u00e9".encode()).hexdigest()
    assert document.document_id == document_id("file:d/a.md")
    assert len(document.document_id) == 32


def test_the_id_comes_from_the_uri_alone() -> None:
    assert build("one").document_id == build("two").document_id
    assert build("one").document_id != build("one", uri="file:d/b.md").document_id


@pytest.mark.parametrize(
    ("text", "title", "expected"),
    [
        ("# Heading\n\ntext", " Given\ntitle ", "Given title"),
        ("# Heading\n\ntext", None, "Heading"),
        ("# Heading\n\ntext", " \u00ad", "Heading"),
        ("just text", None, "a"),
    ],
)
def test_title_is_the_given_one_then_the_heading_then_the_name(
    text: str, title: str | None, expected: str
) -> None:
    assert build(text, title).title == expected


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x07\ufeff"])
def test_without_text_it_is_dropped_as_empty(text: str) -> None:
    drop = build_document(parsed(text))
    assert isinstance(drop, Drop)
    assert drop.reason == "empty"


def test_a_duplicate_names_the_document_that_was_kept() -> None:
    deduplicator = Deduplicator()
    assert deduplicator.refuse(build("same", uri="file:d/first.md")) is None
    drop = deduplicator.refuse(build("same  \r\n", uri="file:d/second.md"))
    assert drop is not None
    assert (drop.source_uri, drop.reason) == ("file:d/second.md", "duplicate")
    assert "file:d/first.md" in drop.detail


def test_another_text_under_the_same_uri_is_dropped() -> None:
    deduplicator = Deduplicator()
    assert deduplicator.refuse(build("one")) is None
    drop = deduplicator.refuse(build("two"))
    assert drop is not None
    assert drop.reason == "duplicate_uri"
