"""Parquet in bounded row groups."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline_lib.corpus import writing
from pipeline_lib.corpus.schema import DROP_SCHEMA, Drop
from pipeline_lib.corpus.writing import ParquetWriter


def drop(number: int, detail: str = "") -> Drop:
    return Drop(source_uri=f"file:{number}", reason="empty", detail=detail)


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    with ParquetWriter[Drop](tmp_path / "x.parquet", DROP_SCHEMA) as writer:
        for number in range(5):
            writer.write(drop(number))
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["source_uri"] for row in rows] == [f"file:{number}" for number in range(5)]
    assert writer.num_rows == 5


def test_no_rows_give_a_readable_empty_file(tmp_path: Path) -> None:
    with ParquetWriter[Drop](tmp_path / "x.parquet", DROP_SCHEMA):
        pass
    assert pq.read_table(tmp_path / "x.parquet").schema.equals(DROP_SCHEMA)


@pytest.mark.parametrize(("limit", "value"), [("ROW_GROUP_ROWS", 2), ("ROW_GROUP_CHARS", 200)])
def test_row_groups_are_bounded_by_rows_and_by_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(writing, limit, value)
    with ParquetWriter[Drop](tmp_path / "x.parquet", DROP_SCHEMA) as writer:
        for number in range(5):
            writer.write(drop(number, "x" * 95))
    metadata = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 2, 1]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with ParquetWriter[Drop](tmp_path / name, DROP_SCHEMA) as writer:
            writer.write(drop(1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
