"""Questions and answers that the user brings, from a JSONL file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.errors import InputError
from pipeline_lib.raft.quotes import fold

MAX_BAD_LINE_SHARE = 0.5
_SHOWN_PROBLEMS = 5
_MAX_QUESTION_CHARS = 4000
_FIELDS = frozenset({"question", "answer", "document_id"})


@dataclass(frozen=True)
class UserPair:
    """One question with its answer."""

    question: str
    answer: str
    document_id: str | None
    """Our document id, the document's source URI, or the URI's end (file name, or the id that the
    document had in its own JSONL file) where only one document's URI ends so."""
    line: int
    """Where it stands in the file, from 1."""


@dataclass(frozen=True)
class BadLine:
    """A line that is no pair."""

    line: int
    reason: str
    """Short and machine-readable."""
    detail: str


@dataclass(frozen=True)
class UserPairs:
    """A file of pairs, read."""

    pairs: tuple[UserPair, ...]
    bad_lines: tuple[BadLine, ...]
    ignored_fields: tuple[str, ...]
    """Fields that are there but not ours."""
    sha256: str
    """Of the file's bytes."""


def read_user_pairs(path: Path) -> UserPairs:
    """Read one JSON object with `question`, `answer` and optionally `document_id` per line.

    Empty lines are skipped, further fields ignored (and named). Lines that are no pair, and
    questions asked before, are set aside with their line numbers. A question may be asked of
    several documents, and have several answers in a document that is named.

    Raises:
        InputError: the file cannot be read, holds no pair, or more than half of it is bad.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The questions in {path} cannot be read: {error.strerror or error}",
            hint="qa_path is read on the machine where the synthesis runs.",
        ) from error
    pairs: list[UserPair] = []
    bad: list[BadLine] = []
    first_seen: dict[tuple[str, ...], int] = {}
    ignored: set[str] = set()
    for number, line in _lines(data):
        record = _parse(number, line)
        if isinstance(record, BadLine):
            bad.append(record)
            continue
        ignored |= record.keys() - _FIELDS
        read = _read_pair(number, record)
        if isinstance(read, UserPair):
            key = _identity(read)
            if key in first_seen:
                detail = f"the question of line {first_seen[key]} again"
                read = BadLine(number, "asked_before", detail)
            else:
                first_seen[key] = number
        if isinstance(read, UserPair):
            pairs.append(read)
        else:
            bad.append(read)
    _check(path, pairs, bad)
    return UserPairs(
        pairs=tuple(pairs),
        bad_lines=tuple(bad),
        ignored_fields=tuple(sorted(ignored)),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _parse(number: int, line: bytes) -> dict[str, Any] | BadLine:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadLine(number, "not_utf8", f"byte {error.start} is not UTF-8")
    except (ValueError, RecursionError) as error:
        return BadLine(number, "not_json", f"not one JSON object on one line: {error}")
    if not isinstance(record, dict):
        return BadLine(number, "not_an_object", f"a JSON {type(record).__name__}, not an object")
    return record


def _read_pair(number: int, record: dict[str, Any]) -> UserPair | BadLine:
    for name in ("question", "answer"):
        value = record.get(name)
        if not isinstance(value, str) or not value.strip():
            return BadLine(number, f"no_{name}", f"{name!r} must be a text that is not empty")
    document_id = record.get("document_id")
    if document_id is not None and not isinstance(document_id, str):
        return BadLine(number, "bad_document_id", "'document_id' must be a text")
    question, answer = record["question"].strip(), record["answer"].strip()
    if len(question) > _MAX_QUESTION_CHARS:
        return BadLine(number, "question_too_long", f"more than {_MAX_QUESTION_CHARS} characters")
    return UserPair(question, answer, document_id or None, number)


def _identity(pair: UserPair) -> tuple[str, ...]:
    """What of a pair must not come twice."""
    question, answer = (fold(text).casefold() for text in (pair.question, pair.answer))
    return (question, pair.document_id, answer) if pair.document_id else (question,)


def _check(path: Path, pairs: list[UserPair], bad: list[BadLine]) -> None:
    wrong = [line for line in bad if line.reason != "asked_before"]
    if pairs and len(wrong) <= MAX_BAD_LINE_SHARE * (len(pairs) + len(bad)):
        return
    shown = "; ".join(f"line {b.line}: {b.detail}" for b in wrong[:_SHOWN_PROBLEMS])
    more = f" and {len(wrong) - _SHOWN_PROBLEMS} more" if len(wrong) > _SHOWN_PROBLEMS else ""
    raise InputError(
        f"{path} holds {len(pairs)} usable questions and {len(wrong)} bad lines"
        + (f" ({shown}{more})" if shown else ""),
        hint='One object per line: {"question": "…", "answer": "…", "document_id": "…"}; '
        "document_id may be left out.",
    )
