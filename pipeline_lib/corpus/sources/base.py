"""What a source hands to the parsers: inputs that any worker can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.corpus.schema import Drop


class Locator(BaseModel):
    """Base of the ways to find an input's bytes again; JSON, so that it can travel."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, kw_only=True)
class RecordRun:
    """Where in its file a run of records lies."""

    file_uri: str
    """The URI of the whole file: what a record's own URI begins with."""
    first_number: int
    """Line or row of its first record, counted from 1."""


@dataclass(frozen=True, kw_only=True)
class SourceInput:
    """One input that can be read; holds no content.

    An input is a file, a page, a member of an archive, or a run of records of a records file.
    """

    uri: str
    """`file:docs/a.md`, `s3://bucket/a.pdf`, `https://…`, `file:docs.zip!/a.md`; unique. A run of
    records is called after its content (`file:a.jsonl#records-5f3a…`), so that an insertion above
    does not rename it."""
    locator: Locator
    content_sha256: str
    """Of the bytes at the time of the scan."""
    size_bytes: int
    media_type: str | None = None
    """What the source declares (a header, a record's kind); the parsers look at the bytes too."""
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready facts that the source knows, such as the `charset` that a server declares."""
    records: RecordRun | None = None
    """For a run of records (its bytes are then JSON Lines, whatever the file is): which."""


Examined = SourceInput | Drop
"""What becomes of a file, or of a part of one, when it is looked into."""


@dataclass(frozen=True)
class SourceScan:
    """Everything the sources hold, in a fixed order: of the sources, then of URIs."""

    inputs: tuple[SourceInput, ...]
    drops: tuple[Drop, ...]
    digest: str
    """Changes when an input is added, removed, renamed or edited. Hidden entries do not count:
    a desktop's folder settings must not set off a training."""
    num_read: int = 0
    """Inputs whose bytes had to be read; of the others size, time or ETag had not changed."""
