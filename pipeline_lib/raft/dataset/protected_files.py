"""Questions and passages of files that training must not see, such as benchmarks.

Files differ in their fields, so none is asked for: every text is a passage, and those that end in
a question mark, or stand in a field called `question`, `query`, `prompt`, `instruction`, `input`
or `problem`, are questions too. Answers of a word or two are neither.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.errors import InputError

_QUESTION_FIELDS = frozenset("question query prompt instruction input problem".split())
_JSON_LINES = frozenset({".jsonl", ".ndjson"})
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MAX_DEPTH = 32


@dataclass(frozen=True)
class ProtectedText:
    """A text of a file."""

    source: str
    """Where it stands: `trivia.jsonl, line 12`."""
    question: str
    """The text, where it may be a question; else empty."""
    passage: str
    """The text, where it may be a passage; else empty."""


def read_protected(path: Path) -> Iterator[ProtectedText]:
    """The texts of a file, one record in memory at a time (a `.json` file is one record).

    Raises:
        InputError: the file cannot be read as what its name says.
    """
    try:
        yield from _texts(path)
    except (OSError, csv.Error, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{path}, whose texts training must not see, cannot be read: {reason}",
            hint="decontaminate_paths may name JSONL, JSON, CSV, TSV and text files in UTF-8.",
        ) from error


def _texts(path: Path) -> Iterator[ProtectedText]:
    suffix = path.suffix.lower()
    with path.open(encoding="utf-8-sig", newline="" if suffix in _DELIMITERS else None) as stream:
        if suffix in _JSON_LINES:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield from _of_json(f"{path.name}, line {number}", json.loads(line))
        elif suffix == ".json":
            yield from _of_json(path.name, json.loads(stream.read()))
        elif suffix in _DELIMITERS:
            reader = csv.DictReader(stream, delimiter=_DELIMITERS[suffix], restkey="")
            for number, row in enumerate(reader, start=1):
                yield from _of_json(f"{path.name}, row {number}", row)
        else:
            yield from _of_lines(path.name, stream)


def _of_json(source: str, value: Any, field: str = "", depth: int = 0) -> Iterator[ProtectedText]:
    """All strings of a JSON value, with the name of the field that they stand in."""
    if isinstance(value, str):
        is_question = field.casefold() in _QUESTION_FIELDS or _looks_like_question(value)
        yield ProtectedText(source, value if is_question else "", value)
    elif depth >= _MAX_DEPTH:
        raise ValueError(f"{source} is nested more than {_MAX_DEPTH} deep")
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _of_json(source, each, str(name), depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from _of_json(source, each, field, depth + 1)


def _of_lines(name: str, lines: Iterable[str]) -> Iterator[ProtectedText]:
    """Lines that are questions, and paragraphs, which blank lines part."""
    paragraph: list[str] = []
    start = 1
    for number, line in enumerate(lines, start=1):
        if _looks_like_question(line):
            yield ProtectedText(f"{name}, line {number}", line.strip(), "")
        if line.strip():
            paragraph.append(line)
            continue
        yield ProtectedText(f"{name}, line {start}", "", "".join(paragraph))
        paragraph, start = [], number + 1
    yield ProtectedText(f"{name}, line {start}", "", "".join(paragraph))


def _looks_like_question(text: str) -> bool:
    return text.rstrip().endswith(("?", "\uff1f"))
