"""From parsed text to documents: redaction before offsets, titles, metadata, emptiness."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline_lib.config.corpus import FilterConfig
from pipeline_lib.corpus.documents import build_document, document_id
from pipeline_lib.corpus.media_types import MARKDOWN
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.schema import Document, Drop
from pipeline_lib.corpus.sources.base import SourceInput

Build = Callable[..., Document | Drop]


@pytest.fixture
def build(source_input: Callable[..., SourceInput]) -> Build:
    def run(
        *texts: str, filters: FilterConfig | None = None, ordinal: int = 0, **fields: Any
    ) -> Document | Drop:
        values = {
            "source_uri": "file:d/a.md",
            "media_type": MARKDOWN,
            "segments": tuple(Segment(text=text) for text in texts),
            "is_markdown": True,
            "name": "a",
            "encoding": "utf-8",
        }
        item = source_input("file:d.jsonl#0-9", b"bytes", metadata={"etag": "1", "by": "source"})
        parsed = ParsedDocument(**(values | fields))  # type: ignore[arg-type]
        return build_document(parsed, item, filters or FilterConfig(), ordinal=ordinal)

    return run


def test_a_document_holds_cleaned_text_and_its_hash(build: Build) -> None:
    found = build("# Title \r\n\r\ncafe\u0301", ordinal=3)
    assert isinstance(found, Document)
    assert found.text == "# Title\n\ncaf\u00e9"
    assert found.content_sha256 == hashlib.sha256("# Title\n\ncaf\u00e9".encode()).hexdigest()
    assert found.document_id == document_id("file:d/a.md")
    assert len(found.document_id) == 32
    assert (found.encoding, found.input_ordinal) == ("utf-8", 3)


def test_a_document_names_the_input_that_it_was_in(build: Build) -> None:
    found = build("text")
    assert isinstance(found, Document)
    assert found.input_uri == "file:d.jsonl#0-9"
    assert found.input_sha256 == hashlib.sha256(b"bytes").hexdigest()


def test_the_id_comes_from_the_uri_alone(build: Build) -> None:
    one, two, other = build("one"), build("two"), build("one", source_uri="file:d/b.md")
    assert isinstance(one, Document)
    assert isinstance(two, Document)
    assert isinstance(other, Document)
    assert one.document_id == two.document_id != other.document_id


def test_an_id_is_had_also_for_a_name_that_is_not_unicode() -> None:
    assert len(document_id("file:d/\udce9")) == 32


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
    build: Build, text: str, title: str | None, expected: str
) -> None:
    found = build(text, title=title)
    assert isinstance(found, Document)
    assert found.title == expected


def test_the_files_metadata_goes_before_the_sources(build: Build) -> None:
    found = build("text", metadata={"by": "file", "année": 2020})
    assert isinstance(found, Document)
    assert json.loads(found.metadata_json) == {"etag": "1", "by": "file", "année": 2020}


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x07\ufeff"])
def test_without_text_it_is_dropped_as_empty(build: Build, text: str) -> None:
    found = build(text)
    assert isinstance(found, Drop)
    assert (found.reason, found.source_uri) == ("empty", "file:d/a.md")


def test_places_and_headings_count_in_the_redacted_text(build: Build) -> None:
    """What is taken out is taken out before offsets are counted."""
    found = build(
        "Write to someone@example.org today.",
        "# Heading\n\nMore.",
        filters=FilterConfig(personal_data="redact"),
    )
    assert isinstance(found, Document)
    assert found.text == "Write to [EMAIL] today.\n\n# Heading\n\nMore."
    [section] = found.sections
    assert found.text[section.start :].startswith("# Heading")
    assert json.loads(found.redactions_json) == {"email": 1}


def test_a_filter_may_refuse_the_document(build: Build) -> None:
    found = build("short", filters=FilterConfig(min_chars=100))
    assert isinstance(found, Drop)
    assert found.reason == "too_short"
