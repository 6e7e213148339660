"""Row ranges of a parquet column."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.retrieval import column_ranges
from pipeline_lib.retrieval.column_ranges import count_rows, read_column


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """25 rows in row groups of 7."""
    path = tmp_path / "rows.parquet"
    table = pa.table({"text": [str(n) for n in range(25)], "other": list(range(25))})
    pq.write_table(table, path, row_group_size=7)
    return path


def test_ranges_put_together_are_the_whole_column(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(column_ranges, "_BATCH_ROWS", 2)
    assert count_rows(file) == 25
    for size in (1, 3, 7, 10, 25, 40):
        ranges = [(start, min(start + size, 25)) for start in range(0, 25, size)]
        read = [list(read_column(file, "text", *each)) for each in ranges]
        assert [len(values) for values in read] == [end - start for start, end in ranges]
        assert [value for values in read for value in values] == [str(n) for n in range(25)]


def test_an_empty_range_has_no_values(file: Path):
    assert list(read_column(file, "text", 7, 7)) == []
