"""What parsers take, and what they make of an input's bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import SourceInput


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of text that lies in one place; a document of one place has one segment."""

    text: str
    """Plain text or Markdown, as it was found: cleaning comes later."""
    kind: str = ""
    """`page`, `slide`, `sheet`, `cell` or `part`; empty when there are no places."""
    label: str = ""
    """Which one: a page's printed label or number from 1, a sheet's name."""


@dataclass(frozen=True, kw_only=True)
class ParsedDocument:
    """One document, before cleaning."""

    source_uri: str
    media_type: str
    segments: tuple[Segment, ...]
    is_markdown: bool = False
    """Whether the segments' text is Markdown (also what HTML, DOCX, EPUB … were turned into)."""
    title: str | None = None
    """What the source itself calls it; `None`: look for a heading."""
    name: str = ""
    """Title when there is neither title nor heading."""
    encoding: str = ""
    """How bytes became characters; empty for binary formats."""
    language: str = ""
    """What the source declares (ISO 639-1), if it does."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready: front matter, document properties, a record's further columns."""


Parser = Callable[[SourceInput, bytes, IngestConfig], Iterator[ParsedDocument | Drop]]
"""One format's reader. What it cannot read it refuses with `RefusedInputError`."""

_QUERY_OR_FRAGMENT = re.compile(r"[?#].*")


def name_of(uri: str) -> str:
    """Last part of a URI without its suffix: the title of last resort."""
    if "://" in uri:
        uri = _QUERY_OR_FRAGMENT.sub("", uri).rstrip("/")
    return PurePosixPath(uri.removeprefix("file:")).stem
