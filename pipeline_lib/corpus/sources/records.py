"""Files of records, in runs of a few megabytes: JSON Lines, parquet, Arrow.

Every run is read as JSON Lines (UTF-8, one object a line), whatever the file is. Runs end where the
content says so: after a line whose checksum is small enough. So an insertion changes the run it
falls into, and the runs below it stay what they were, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_lib.corpus.drops import DropReason, make_drop
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.tables import Table

SHORTEST_RUN_BYTES = 2 * 1024**2
LONGEST_RUN_BYTES = 8 * 1024**2
_MEAN_REST_BYTES = 2 * 1024**2
"""After the shortest run, an end comes by chance: once in so many bytes."""


@dataclass(frozen=True)
class Run:
    """Some consecutive records."""

    start: int
    """First byte of a JSONL file; first row of a group."""
    end: int
    first_number: int
    """Line or row of the whole file, from 1."""
    content_sha256: str
    size_bytes: int
    group: int = 0


@dataclass
class _Open:
    """A run that is growing."""

    start: int
    first_number: int
    size_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, line: bytes) -> bool:
        """Take a line; whether the run ends with it."""
        self.digest.update(line)
        self.size_bytes += len(line)
        if self.size_bytes >= LONGEST_RUN_BYTES:
            return True
        chance = len(line) / _MEAN_REST_BYTES
        return self.size_bytes >= SHORTEST_RUN_BYTES and zlib.crc32(line) < chance * 2**32

    def close(self, end: int, group: int = 0) -> Run:
        return Run(
            start=self.start,
            end=end,
            first_number=self.first_number,
            content_sha256=self.digest.hexdigest(),
            size_bytes=self.size_bytes,
            group=group,
        )


def line_runs(path: Path, uri: str, max_record_bytes: int) -> Iterator[Run | Drop]:
    """The runs of a JSONL file, and a drop for each line that is too long.

    Memory holds one line of at most `max_record_bytes`.
    """
    run: _Open | None = None
    position = number = 0
    with path.open("rb") as stream:
        while line := stream.readline(max_record_bytes + 1):
            number += 1
            if len(line) > max_record_bytes and not line.endswith(b"\n"):
                if run is not None:
                    yield run.close(position)
                    run = None
                size = len(line) + _skip_line(stream)
                position += size
                yield _too_long(uri, f"line-{number}", size, max_record_bytes)
                continue
            run = run or _Open(position, number)
            position += len(line)
            if run.add(line):
                yield run.close(position)
                run = None
    if run is not None:
        yield run.close(position)


def _skip_line(stream: Any) -> int:
    skipped = 0
    while piece := stream.readline(1 << 20):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _too_long(uri: str, which: str, size: int, limit: int) -> Drop:
    detail = f"a record of {size} bytes; ingest.limits.max_file_bytes is {limit}"
    return make_drop(f"{uri}#{which}", DropReason.TOO_LARGE, detail)


def row_runs(
    table: Table, columns: Sequence[str], uri: str, max_record_bytes: int
) -> Iterator[Run | Drop]:
    """The runs of a table, none across two groups, and a drop for each row that is too large."""
    number = 0
    for group in table.groups():
        run: _Open | None = None
        row = 0
        for row, line in enumerate(_lines(table, group, columns), start=1):
            number += 1
            if len(line) > max_record_bytes:
                if run is not None:
                    yield run.close(row - 1, group)
                    run = None
                yield _too_long(uri, f"row-{number}", len(line), max_record_bytes)
                continue
            run = run or _Open(row - 1, number)
            if run.add(line):
                yield run.close(row, group)
                run = None
        if run is not None:
            yield run.close(row, group)


def row_lines(
    table: Table, group: int, start: int, end: int, columns: Sequence[str]
) -> Iterator[bytes]:
    """The rows from `start` up to `end` of one group, as lines of JSON."""
    yield from _lines(table, group, columns, start, end)


def _lines(
    table: Table, group: int, columns: Sequence[str], start: int = 0, end: int | None = None
) -> Iterator[bytes]:
    first = 0
    for batch in table.batches(group, list(columns)):
        last = first + batch.num_rows
        if last > start:
            begin = max(start - first, 0)
            stop = batch.num_rows if end is None else min(end - first, batch.num_rows)
            for row in batch.slice(begin, stop - begin).to_pylist():
                yield _json_line(row)
        first = last
        if end is not None and first >= end:
            return


def _json_line(row: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:  # NaN, which JSON lacks
        text = json.dumps(_without_nan(row), ensure_ascii=False, default=str)
    return text.encode() + b"\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
