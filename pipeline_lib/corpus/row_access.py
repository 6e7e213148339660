"""Rows of a parquet file by the value of a column, without reading the file as a whole."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline_lib.corpus.schema import read_rows


class GroupedRows:
    """Rows that lie together where a column has the same value.

    Memory holds the column's values and one row group. Values asked for in about the file's order
    read each row group once.
    """

    def __init__(self, path: Path, column: str) -> None:
        self._file = pq.ParquetFile(path)
        sizes = [
            self._file.metadata.row_group(group).num_rows
            for group in range(self._file.num_row_groups)
        ]
        self._starts = [0, *accumulate(sizes)]
        self._ranges = _ranges(path, column)
        self._open: tuple[int, list[dict[str, Any]]] | None = None

    def rows(self, value: str) -> list[dict[str, Any]]:
        """The rows with this value, in order; none for an unknown value."""
        start, end = self._ranges.get(value, (0, 0))
        found: list[dict[str, Any]] = []
        while start < end:
            group = bisect_right(self._starts, start) - 1
            piece = self._group(group)[start - self._starts[group] : end - self._starts[group]]
            found += piece
            start += len(piece)
        return found

    def _group(self, group: int) -> list[dict[str, Any]]:
        if self._open is None or self._open[0] != group:
            self._open = None  # before the next is read: never two in memory
            self._open = group, self._file.read_row_group(group).to_pylist()
        return self._open[1]


def _ranges(path: Path, column: str) -> dict[str, tuple[int, int]]:
    ranges: dict[str, tuple[int, int]] = {}
    last, start, number = None, 0, 0
    for number, row in enumerate(read_rows(path, [column])):
        value = row[column]
        if value != last:
            if last is not None:
                ranges[last] = (start, number)
            last, start = value, number
    if last is not None:
        ranges[last] = (start, number + 1)
    return ranges
