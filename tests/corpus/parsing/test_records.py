"""JSON Lines: one document a line, and a broken line takes down nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pipeline_lib.config import IngestConfig
from pipeline_lib.config.corpus import IngestLimits, RecordColumns
from pipeline_lib.corpus.media_types import JSONL
from pipeline_lib.corpus.parsing.base import ParsedDocument
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import RecordRun

ParseAll = Callable[..., list[ParsedDocument | Drop]]
ParseOne = Callable[..., ParsedDocument]
URI = "file:d/x.jsonl"


def jsonl(*records: object) -> bytes:
    return "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records).encode()


def test_one_document_per_line(parse_all: ParseAll) -> None:
    data = jsonl(
        {"text": "one", "id": 7, "title": "One", "kind": "faq"},
        {"text": "two", "id": "b", "source": "https://e.org/two"},
        "",
        {"text": "three", "url": "https://e.org/three", "language": "de"},
    )
    parsed = parse_all(data, URI)
    assert all(isinstance(item, ParsedDocument) for item in parsed)
    assert [(p.source_uri, p.segments[0].text, p.title, p.name) for p in parsed] == [  # type: ignore[union-attr]
        ("file:d/x.jsonl#7", "one", "One", "7"),
        ("https://e.org/two#b", "two", None, "b"),
        ("https://e.org/three", "three", None, "x"),
    ]
    assert [p.language for p in parsed] == ["", "", "de"]  # type: ignore[union-attr]
    assert parsed[0].metadata == {"kind": "faq"}  # type: ignore[union-attr]


def test_columns_may_have_other_names(parse_one: ParseOne) -> None:
    columns = RecordColumns(text="body", id="key", title="head", uri="link", metadata=("year",))
    record = {"body": "b", "key": 1, "head": "h", "link": "l", "year": 1999, "other": 2}
    parsed = parse_one(jsonl(record), URI, config=IngestConfig(records=columns))
    assert (parsed.source_uri, parsed.title) == ("l#1", "h")
    assert parsed.segments[0].text == "b"
    assert parsed.metadata == {"year": 1999}


def test_a_line_inserted_above_does_not_rename_records_without_id(parse_all: ParseAll) -> None:
    before = {p.source_uri for p in parse_all(jsonl({"text": "a"}, {"text": "b"}), URI)}
    after = {
        p.source_uri for p in parse_all(jsonl({"text": "new"}, {"text": "a"}, {"text": "b"}), URI)
    }
    assert len(before) == 2
    assert before < after


def test_a_run_of_records_is_named_after_its_file(parse_all: ParseAll) -> None:
    """Whatever the file was, its rows come as JSON Lines."""
    run = RecordRun(file_uri="file:d/x.parquet", first_number=1001)
    document, drop = parse_all(
        jsonl({"id": 1, "text": "a"}, {"id": 2}), "file:d/x.parquet#records-5f", records=run
    )
    assert document.source_uri == "file:d/x.parquet#1"
    assert drop.source_uri == "file:d/x.parquet#line-1002"


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("{broken", "broken_json", "line 2: Invalid JSON: key must be a string at column 2"),
        ('{"text": "cut', "broken_json", "line 2: Invalid JSON: EOF while parsing a string"),
        ('{"text": "\\ud800"}', "broken_json", "line 2: Invalid JSON"),
        ("[" * 100_000, "broken_json", "line 2: Invalid JSON: recursion limit exceeded"),
        ('{"title": "no text"}', "invalid_record", "line 2: text: is missing"),
        ('{"text": 5}', "invalid_record", "line 2: text: holds int, not text"),
        ('["text"]', "invalid_record", "line 2: Input should be an object"),
        ('{"text": "a", "title": 5}', "invalid_record", "line 2: title: holds int"),
        ('{"text": "a", "id": [1]}', "invalid_record", "line 2: id: holds list"),
    ],
)
def test_a_bad_line_is_a_drop_with_its_number_and_the_others_go_on(
    parse_all: ParseAll, line: str, reason: str, detail: str
) -> None:
    first, drop, last = parse_all(jsonl({"text": "a"}, line, {"text": "c"}), URI)
    assert isinstance(drop, Drop)
    assert (drop.source_uri, drop.reason) == (f"{URI}#line-2", reason)
    assert drop.detail.startswith(detail)
    assert drop.remedy
    assert isinstance(first, ParsedDocument)
    assert isinstance(last, ParsedDocument)


def test_a_record_over_the_limit_is_a_drop(parse_all: ParseAll) -> None:
    config = IngestConfig(limits=IngestLimits(max_file_bytes=50))
    small, large = parse_all(jsonl({"text": "a"}, {"text": "ä" * 40}), URI, config=config)
    assert isinstance(small, ParsedDocument)
    assert isinstance(large, Drop)
    assert large.reason == "too_large"


def test_line_separators_inside_a_json_string_do_not_end_the_line(parse_one: ParseOne) -> None:
    data = json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False).encode()
    assert parse_one(data, URI).segments[0].text == "a\u2028b\x85c"


@pytest.mark.parametrize("data", [b"", b"\n \r\n"])
def test_a_file_without_lines_is_a_drop(parse_all: ParseAll, data: bytes) -> None:
    (drop,) = parse_all(data, URI)
    assert isinstance(drop, Drop)
    assert drop.reason == "empty"


def test_what_a_source_declares_to_be_records_is_read_as_records(parse_one: ParseOne) -> None:
    assert parse_one(jsonl({"text": "a", "id": 1}), "https://e.org/feed", media_type=JSONL)
