"""What reviewers hand in: the page's `verdicts.json`, or a table from a spreadsheet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from pipeline_lib.errors import InputError
from pipeline_lib.raft.review.verdicts import Decision

FORMAT = "raftline-review-1"
"""Of `verdicts.json`; the page writes it."""
MAX_FILE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a file says of one row, as it stands there."""

    place: str
    """For messages: `line 12`."""
    row_id: str
    question: str
    """As it was shown."""
    decision: Decision | None
    """`None`: not decided, unless something was edited."""
    edited_question: str = ""
    edited_answer: str = ""
    comment: str = ""
    reviewer: str = ""
    decided_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ReviewFile:
    """A file that was handed in."""

    dataset: str
    """Reference of the dataset that was reviewed; empty when the file does not say."""
    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()
    """What could not be understood, with its place."""


def read_limited(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        InputError: it cannot be read, or is larger than any review.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"{path} has {size:,} bytes; reviews have at most {MAX_FILE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def read_verdicts_json(path: Path) -> ReviewFile:
    """The file that the review page downloads.

    Raises:
        InputError: it is not such a file.
    """
    try:
        content = _PageFile.model_validate(json.loads(read_limited(path)))
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False)
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} is no file of verdicts: {where}: {first['msg']} (got {first['input']!r:.80})",
            hint="Import the verdicts.json that the review page downloads, or the review.csv.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    entries = tuple(
        Entry(place=f"verdict {number}", **{**vars(each), "reviewer": content.reviewer})
        for number, each in enumerate(content.verdicts, start=1)
    )
    return ReviewFile(dataset=content.dataset, entries=entries)


class _PageVerdict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    row_id: str
    question: str
    decision: Decision
    edited_question: str = ""
    edited_answer: str = ""
    comment: str = ""
    decided_at: AwareDatetime


class _PageFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["raftline-review-1"]
    dataset: str
    reviewer: str = ""
    verdicts: list[_PageVerdict]
