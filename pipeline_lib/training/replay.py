"""General text, mixed into domain-adaptive pre-training so that less is forgotten."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline_lib.artifacts.object_store import sha256_file
from pipeline_lib.errors import InputError

SUFFIXES = (".txt", ".jsonl", ".parquet")
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class ReplayText:
    """One document of general text."""

    text_id: str
    """SHA-256 of the text."""
    text: str


def replay_files(path: Path) -> list[Path]:
    """The files of general text under `path`, sorted; `path` itself if it is one.

    Raises:
        InputError: there is none.
    """
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    kept = [file for file in found if file.suffix in SUFFIXES]
    if not kept:
        raise InputError(
            f"pretraining.replay_path {str(path)!r} leads to no {', '.join(SUFFIXES)} file",
            hint="Name such a file on this machine or a folder with some.",
        )
    return kept


def replay_identity(path: Path) -> str:
    """Hash of all the text under `path`: what a model was trained on is part of its name.

    Raises:
        InputError: there is no text.
    """
    hashes = [sha256_file(file) for file in replay_files(path)]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def read_replay(path: Path) -> Iterator[ReplayText]:
    """All texts: a `.txt` file is one, of `.jsonl` and `.parquet` each row's `text`; no empty ones.

    Raises:
        InputError: a file cannot be read, or has no texts; says where.
    """
    for file in replay_files(path):
        for text in _texts(file):
            if text.strip():
                yield ReplayText(hashlib.sha256(text.encode()).hexdigest(), text)


def _texts(file: Path) -> Iterator[str]:
    if file.suffix == ".parquet":
        parquet = pq.ParquetFile(file)
        if "text" not in parquet.schema_arrow.names:
            raise InputError(
                f"{file} has the columns {', '.join(parquet.schema_arrow.names)}, but no 'text'"
            )
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=["text"]):
            yield from (text for text in batch.column(0).to_pylist() if text)
        return
    try:
        if file.suffix == ".txt":
            yield file.read_text(encoding="utf-8")
            return
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _text_of(line, f"{file}:{number}")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: {error}") from error


def _text_of(line: str, place: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place} is no JSON object with a 'text'") from error
    if not isinstance(text, str):
        raise InputError(f"{place}: 'text' is {type(text).__name__}, not a string")
    return text
