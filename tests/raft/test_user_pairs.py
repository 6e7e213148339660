from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.errors import InputError
from pipeline_lib.raft.user_pairs import UserPair, read_user_pairs

GOOD = {"question": "When does it sleep?", "answer": "By day"}


def write(folder: Path, *lines: object) -> Path:
    path = folder / "qa.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def test_pairs_are_read_with_their_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "", {"question": " Why? ", "answer": "So.", "document_id": "d1"})
    read = read_user_pairs(path)
    assert read.pairs == (
        UserPair("When does it sleep?", "By day", None, 1),
        UserPair("Why?", "So.", "d1", 3),
    )
    assert read.bad_lines == ()


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert len(read_user_pairs(path).pairs) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "not_json"),
        ("[" * 100_000, "not_json"),
        ("[1, 2]", "not_an_object"),
        ({"answer": "a"}, "no_question"),
        ({"question": "  ", "answer": "a"}, "no_question"),
        ({"question": "q", "answer": 7}, "no_answer"),
        ({"question": "q", "answer": None}, "no_answer"),
        ({"question": "q", "answer": "a", "document_id": 3}, "bad_document_id"),
        ({"question": "q" * 5000, "answer": "a"}, "question_too_long"),
        ({"question": "WHEN does  it sleep?", "answer": "other"}, "asked_before"),
    ],
)
def test_bad_lines_are_set_aside_with_number_and_reason(
    tmp_path: Path, line: object, reason: str
) -> None:
    read = read_user_pairs(write(tmp_path, GOOD, line))
    assert len(read.pairs) == 1
    assert [(bad.line, bad.reason) for bad in read.bad_lines] == [(2, reason)]
    assert read.bad_lines[0].detail


def test_bytes_that_are_not_utf8_are_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xff"}\n')
    assert [bad.reason for bad in read_user_pairs(path).bad_lines] == ["not_utf8"]


def test_further_fields_are_ignored_and_named(tmp_path: Path) -> None:
    read = read_user_pairs(write(tmp_path, {**GOOD, "id": 7, "doc": "x"}))
    assert read.ignored_fields == ("doc", "id")


def test_mostly_bad_files_are_refused_naming_the_lines(tmp_path: Path) -> None:
    path = write(tmp_path, {"q": "a"}, GOOD, "oops", "[]")
    with pytest.raises(InputError, match="1 usable questions and 3 bad lines") as e:
        read_user_pairs(path)
    assert "line 1: 'question' must be a text" in str(e.value)
    assert "line 3: not one JSON object" in str(e.value)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="0 usable questions"):
        read_user_pairs(write(tmp_path, content))


def test_a_missing_file_is_refused_naming_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jsonl cannot be read: No such file"):
        read_user_pairs(tmp_path / "nowhere.jsonl")


def test_the_content_is_identified_not_the_path(tmp_path: Path) -> None:
    first = read_user_pairs(write(tmp_path, GOOD))
    (tmp_path / "sub").mkdir()
    assert read_user_pairs(write(tmp_path / "sub", GOOD)).sha256 == first.sha256


@given(st.binary(max_size=200))
def test_any_bytes_give_pairs_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    with pytest.raises(InputError):
        read_user_pairs(path)


def test_a_question_may_have_several_documents_and_answers_but_no_pair_comes_twice(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path,
        {**GOOD, "document_id": "fox"},
        {**GOOD, "document_id": "badger"},
        {**GOOD, "document_id": "fox", "answer": "In summer, by day"},
        {**GOOD, "document_id": "fox", "answer": "by  DAY"},
    )
    read = read_user_pairs(path)
    assert [pair.document_id for pair in read.pairs] == ["fox", "badger", "fox"]
    [again] = read.bad_lines
    assert (again.line, again.reason) == (4, "asked_before")
