"""Ranges of one column of a parquet file, reading only the row groups they lie in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

_BATCH_ROWS = 1_024


def count_rows(path: Path) -> int:
    """Rows of the file, from its footer."""
    return int(pq.read_metadata(path).num_rows)


def read_column(path: Path, column: str, start: int, end: int) -> Iterator[Any]:
    """The values of rows `start` to `end` (exclusive), in order, a batch in memory at a time."""
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first < end and first + size > start:
                yield from _group_values(file, group, column, start - first, end - first)
            first += size


def _group_values(
    file: pq.ParquetFile, group: int, column: str, start: int, end: int
) -> Iterator[Any]:
    first = 0
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[column]):
        if first >= end:
            return
        yield from batch.column(0).slice(max(0, start - first), end - max(first, start)).to_pylist()
        first += batch.num_rows
