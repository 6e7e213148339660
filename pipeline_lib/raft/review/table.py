r"""The review as a table for spreadsheets, there and back.

Text from documents must not run as a formula when the file is opened. Spreadsheets take a cell for
one that begins with `=`, `+`, `-` or `@`, and a file of commas opened by one that expects
semicolons is cut inside of cells too; so an apostrophe goes before each such character that begins
a text or follows a separator, a line break or a quotation mark behind one. An apostrophe in such a
place gets another, so that `unguard(guard(text)) == text` for every text.

Saved again, the file may have another separator, another encoding, and fewer columns; it is read
all the same.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

from pipeline_lib.corpus.drops import RefusedInputError
from pipeline_lib.corpus.parsing.decoding import decode
from pipeline_lib.errors import InputError
from pipeline_lib.raft.review.files import Entry, ReviewFile, read_limited
from pipeline_lib.raft.review.sample import ReviewRow, ReviewSample
from pipeline_lib.raft.review.verdicts import Decision

COLUMNS = (
    "verdict",
    "question",
    "edited_question",
    "final_answer",
    "edited_answer",
    "comment",
    "reasoning",
    "oracle",
    "title",
    "kind",
    "split",
    "target",
    "row_id",
    "dataset",
)
_NEEDED = ("row_id", "verdict")
_WORDS: Mapping[str, Decision] = {
    **dict.fromkeys(("accept", "accepted", "a", "ok", "yes", "y"), "accept"),
    **dict.fromkeys(("reject", "rejected", "r", "no", "n"), "reject"),
    **dict.fromkeys(("edit", "edited", "e"), "edit"),
    **dict.fromkeys(("withdraw", "withdrawn"), "withdrawn"),
}
_MAX_CELL = 30_000
"""Characters; spreadsheets cut cells at 32,767."""

_FORMULA = "=+@\\-\uff1d\uff0b\uff20\uff0d'"
_UNSAFE = re.compile(rf"(\A|[,;|\t\r\n])([\s\"]*)(?=[{_FORMULA}])")
_GUARDED = re.compile(rf"(\A|[,;|\t\r\n])([\s\"]*)'(?=[{_FORMULA}])")


def guard(text: str) -> str:
    """`text` such that no spreadsheet calculates it."""
    return _UNSAFE.sub(r"\1\2'", text)


def unguard(text: str) -> str:
    """The inverse of `guard`; leaves what people typed as it is."""
    return _GUARDED.sub(r"\1\2", text)


def write_table(sample: ReviewSample, path: Path) -> None:
    """Write the sample as CSV (UTF-8 with a byte order mark, by which spreadsheets know it)."""
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerow(COLUMNS)
        for each in sample.rows:
            cells = _cells(each) | {"dataset": sample.dataset.key}
            writer.writerow([guard(_shortened(cells[column])) for column in COLUMNS])


def read_table(path: Path) -> ReviewFile:
    """Read a table that a person filled in.

    Raises:
        InputError: it is no text, or lacks the columns that say which row and which verdict.
    """
    try:
        text = decode(read_limited(path)).text
    except RefusedInputError as error:
        raise InputError(
            f"{path} is not a CSV file: {error}", hint="Save the table as CSV (UTF-8)."
        ) from error
    separator = _separator(text, path)
    entries: list[Entry] = []
    problems: list[str] = []
    dataset = ""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restval="")
    reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or ()]
    try:
        for line in reader:
            cells = {name: unguard(line.get(name) or "").strip() for name in COLUMNS}
            place = f"line {reader.line_num}"
            decision = _WORDS.get(cells["verdict"].casefold())
            dataset = dataset or cells["dataset"]
            if cells["verdict"] and decision is None:
                problems.append(f"{place}: {cells['verdict'][:40]!r} is no verdict")
            elif cells["row_id"] or cells["question"]:
                entries.append(_entry(place, decision, cells))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    return ReviewFile(dataset=dataset, entries=tuple(entries), problems=tuple(problems))


def _entry(place: str, decision: Decision | None, cells: Mapping[str, str]) -> Entry:
    answer = "\n".join(cells["edited_answer"].splitlines())
    return Entry(
        place=place,
        row_id=cells["row_id"],
        question=cells["question"],
        decision=decision,
        edited_question=cells["edited_question"],
        edited_answer=answer,
        comment=cells["comment"],
    )


def _separator(text: str, path: Path) -> str:
    """The one with which the first line names the columns."""
    header = text.partition("\n")[0]
    for separator in ",;\t|":
        [names] = csv.reader([header], delimiter=separator)
        if {name.strip().casefold() for name in names}.issuperset(_NEEDED):
            return separator
    raise InputError(
        f"{path}: the first line ({header[:80]!r}) does not name the columns "
        f"{' and '.join(map(repr, _NEEDED))}",
        hint="Fill in the review.csv of 'raftline review export' and keep its first line.",
    )


def _cells(each: ReviewRow) -> dict[str, str]:
    row, verdict = each.row, each.verdict
    numbers = {passage.chunk_id: passage.number for passage in each.passages}
    reasoning = [
        f'{step.text} "{step.quote.text}" [{numbers[step.quote.chunk_id]}]'
        if step.quote
        else step.text
        for step in row.reasoning
    ]
    oracles = [passage for passage in each.passages if passage.is_oracle]
    return {
        "verdict": verdict.decision if verdict else "",
        "question": row.question,
        "edited_question": verdict.edited_question if verdict else "",
        "final_answer": row.final_answer,
        "edited_answer": verdict.edited_answer if verdict else "",
        "comment": verdict.comment if verdict else "",
        "reasoning": "\n".join(reasoning),
        "oracle": "\n\n".join(passage.text for passage in oracles),
        "title": ", ".join(dict.fromkeys(passage.title for passage in oracles)),
        "kind": row.kind,
        "split": row.split,
        "target": row.target,
        "row_id": row.row_id,
    }


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"
