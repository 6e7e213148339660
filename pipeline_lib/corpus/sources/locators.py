"""The ways to find an input's bytes again, as JSON.

Locators nest: a line range of a JSONL file inside a zip archive in a bucket is a `LinesLocator` of
a `ZipMemberLocator` of an `ObjectLocator`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote_to_bytes

from pydantic import Field, TypeAdapter

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.corpus.sources.base import Locator, RecordRun, SourceInput


class FileLocator(Locator):
    """A file on this machine, or on a file system that all machines share."""

    kind: Literal["file"] = "file"
    path: str
    """Absolute, percent-encoded: names need not be UTF-8, JSON must."""

    @classmethod
    def of(cls, path: Path) -> FileLocator:
        """The locator of a path."""
        return cls(path=quote(os.fsencode(path.absolute())))

    def to_path(self) -> Path:
        """The path as the operating system takes it."""
        return Path(os.fsdecode(unquote_to_bytes(self.path)))


class SampleLocator(Locator):
    """A page of the built-in sample."""

    kind: Literal["sample"] = "sample"
    page: str


class ObjectLocator(Locator):
    """An object in a bucket that is a source."""

    kind: Literal["object"] = "object"
    bucket: str
    key: str
    etag: str


class FetchedLocator(Locator):
    """The body of a URL as it was at the scan, kept in the artifact store."""

    kind: Literal["fetched"] = "fetched"
    sha256: str


class ZipMemberLocator(Locator):
    """A member of a zip archive."""

    kind: Literal["zip_member"] = "zip_member"
    file: AnyLocator
    file_sha256: str
    index: int
    """Position in the central directory: names need not be unique."""


class TarMemberLocator(Locator):
    """A member of a tar archive."""

    kind: Literal["tar_member"] = "tar_member"
    file: AnyLocator
    file_sha256: str
    is_compressed: bool
    offset: int
    """Of its content in the uncompressed archive."""
    size_bytes: int


class CompressedLocator(Locator):
    """The content of a file that is compressed by gzip, bzip2 or xz and is no archive."""

    kind: Literal["compressed"] = "compressed"
    file: AnyLocator
    file_sha256: str


class LinesLocator(Locator):
    """A run of whole lines of a JSONL file."""

    kind: Literal["lines"] = "lines"
    file: AnyLocator
    file_sha256: str
    start: int
    """First byte."""
    end: int
    """One past the last byte."""


class RowsLocator(Locator):
    """A run of rows of a parquet or Arrow file, read as JSON Lines."""

    kind: Literal["rows"] = "rows"
    file: AnyLocator
    file_sha256: str
    group: int
    """Row group of a parquet file or batch of an Arrow file, as `records.Table` marks it."""
    start: int
    """First row in the group."""
    end: int
    """One past the last row."""
    columns: tuple[str, ...]
    """Which, in this order."""


AnyLocator = Annotated[
    FileLocator
    | SampleLocator
    | ObjectLocator
    | FetchedLocator
    | ZipMemberLocator
    | TarMemberLocator
    | CompressedLocator
    | LinesLocator
    | RowsLocator,
    Field(discriminator="kind"),
]
for _nested in (ZipMemberLocator, TarMemberLocator, CompressedLocator, LinesLocator, RowsLocator):
    _nested.model_rebuild()

locator_adapter: TypeAdapter[AnyLocator] = TypeAdapter(AnyLocator)


def source_input_to_dict(item: SourceInput) -> dict[str, Any]:
    """An input as a JSON object."""
    return {
        "uri": item.uri,
        "locator": item.locator.model_dump(mode="json"),
        "content_sha256": item.content_sha256,
        "size_bytes": item.size_bytes,
        "media_type": item.media_type,
        "title": item.title,
        "metadata": dict(item.metadata),
        "records": asdict(item.records) if item.records else None,
    }


def source_input_from_dict(fields: Mapping[str, Any]) -> SourceInput:
    """The input that `source_input_to_dict` described."""
    records = fields["records"]
    return SourceInput(
        **{
            **fields,
            "locator": locator_adapter.validate_python(fields["locator"]),
            "records": RecordRun(**records) if records else None,
        }
    )


def source_input_to_json(item: SourceInput) -> bytes:
    """An input as JSON, UTF-8."""
    return canonical_json(source_input_to_dict(item))


def source_input_from_json(data: bytes | str) -> SourceInput:
    """The input that `source_input_to_json` wrote."""
    return source_input_from_dict(json.loads(data))
