"""The table for spreadsheets: no formulas, and whatever a spreadsheet does to the file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.errors import InputError
from pipeline_lib.raft.review.sample import ReviewPassage, ReviewRow, ReviewSample
from pipeline_lib.raft.review.table import guard, read_table, unguard, write_table
from pipeline_lib.raft.rows import RaftRow

REF = ArtifactRef(kind="dataset", name="demo", fingerprint="a" * 32)


def _sample(*rows: RaftRow) -> ReviewSample:
    reviewed = tuple(
        ReviewRow(
            row=row,
            passages=tuple(
                ReviewPassage(
                    chunk_id=passage.chunk_id,
                    number=number,
                    is_oracle=passage.role == "oracle",
                    title=passage.title,
                    text=passage.text,
                    origin=passage.origin,
                    change="",
                    source_uri="",
                )
                for number, passage in enumerate(row.context, start=1)
            ),
            verdict=None,
        )
        for row in rows
    )
    return ReviewSample(dataset=REF, rows=reviewed, num_eligible=len(rows), num_reviewed=0)


def _cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def _saved(path: Path, cells: list[dict[str, str]], encoding: str, **format: Any) -> Path:
    """As a spreadsheet saves it."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(cells[0]), **format)
    writer.writeheader()
    writer.writerows(cells)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


@given(st.text(alphabet=st.sampled_from("=+-@'\"\t\r\n ,;|aé1\uff1d\u00a0"), max_size=12))
def test_unguarding_gives_the_text_back(text: str) -> None:
    assert unguard(guard(text)) == text


@given(st.text(alphabet=st.sampled_from("=+-@'\"\t\r\n ,;|a"), max_size=12))
def test_no_separator_that_a_spreadsheet_may_expect_uncovers_a_formula(text: str) -> None:
    quoted = io.StringIO(newline="")
    csv.writer(quoted, quoting=csv.QUOTE_ALL).writerow([guard(text), "last"])
    for separator in ",;\t|":
        for line in csv.reader(io.StringIO(quoted.getvalue(), newline=""), delimiter=separator):
            for cell in line:
                assert not cell.strip().strip('"').strip().startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("=1+1", "'=1+1"),
        (" @SUM(A1)", " '@SUM(A1)"),
        ("\uff1dcmd()", "'\uff1dcmd()"),
        ("a;=cmd()", "a;'=cmd()"),
        ("'=1", "''=1"),
        ("a = b + c", "a = b + c"),
        ("It's 1-2", "It's 1-2"),
    ],
)
def test_only_what_could_be_calculated_gets_an_apostrophe(text: str, guarded: str) -> None:
    assert guard(text) == guarded


def test_a_reviewer_sees_question_answer_quotes_and_oracle(
    row: Callable[..., RaftRow], tmp_path: Path
) -> None:
    path = tmp_path / "review.csv"
    write_table(_sample(row(0, final_answer="=HYPERLINK(1)")), path)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")  # by which Excel knows UTF-8
    [cells] = _cells(path)
    assert cells["question"] == "What does otter 0 eat?"
    assert cells["final_answer"] == "'=HYPERLINK(1)"
    assert cells["reasoning"] == 'The page says: "Otter 0 eats crabs." [2]'
    assert cells["oracle"] == "Otter 0 eats crabs. It sleeps on its back."
    assert cells["verdict"] == cells["edited_answer"] == ""


@pytest.mark.parametrize(
    ("encoding", "format"),
    [
        ("utf-8-sig", {}),
        ("utf-8", {"delimiter": ";", "lineterminator": "\n"}),
        ("utf-16", {"delimiter": "\t"}),
        ("cp1252", {"delimiter": ";"}),
    ],
)
def test_whatever_a_spreadsheet_makes_of_the_file_it_is_read(
    row: Callable[..., RaftRow], tmp_path: Path, encoding: str, format: dict[str, Any]
) -> None:
    path = tmp_path / "review.csv"
    question = "=Was frisst der Otter überhaupt; und wann, möglichst täglich?"
    write_table(_sample(row(0, question=question), row(1), row(2)), path)
    cells = _cells(path)
    cells[0] |= {"verdict": "Rejected ", "comment": "schöne Frage; falsche Antwort"}
    cells[1] |= {"edited_answer": "zwei\r\nZeilen für Wörter"}
    file = read_table(_saved(path, cells, encoding, **format))
    assert file.dataset == REF.key
    first, second, third = file.entries
    assert (first.row_id, first.question, first.decision) == ("row-0", question, "reject")
    assert first.comment == "schöne Frage; falsche Antwort"
    assert (second.decision, second.edited_answer) == (None, "zwei\nZeilen für Wörter")
    assert (third.decision, third.edited_answer) == (None, "")


def test_columns_may_be_removed_and_moved_as_long_as_row_and_verdict_stay(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("Verdict,Row_ID\nok,row-1\n")
    [entry] = read_table(path).entries
    assert (entry.row_id, entry.decision) == ("row-1", "accept")


def test_a_word_that_is_no_verdict_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("row_id,verdict\nrow-1,perhaps\nrow-2,n\n,\n")
    file = read_table(path)
    assert file.problems == ("line 2: 'perhaps' is no verdict",)
    assert [entry.row_id for entry in file.entries] == ["row-2"]


def test_long_passages_fit_a_cell(row: Callable[..., RaftRow], tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    write_table(_sample(row(0, final_answer="x" * 40_000)), path)
    assert len(_cells(path)[0]["final_answer"]) == 30_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "does not name the columns 'row_id' and 'verdict'"),
        (b"", "does not name the columns"),
        (b"%PDF-1.7 \x00\x01", "is not a CSV file"),
        (b'row_id,verdict\n"' + b"x" * 200_000 + b'",a\n', "field larger than"),
    ],
)
def test_other_files_are_refused_with_a_reason(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "review.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.csv cannot be read: No such file"):
        read_table(tmp_path / "nothing.csv")
