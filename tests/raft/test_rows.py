"""Rows on their way to a file and back."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline_lib.raft.rows import ROW_SCHEMA, RaftRow, iter_rows, read_rows, write_rows
from tests.raft.made_rows import bare_row, make_row, refusing_row

ROWS = [
    make_row("kestrel", "owl", "fake", row_id="a"),
    refusing_row(row_id="b"),
    bare_row("What do otters eat?"),
    make_row(
        row_id="d",
        task="closed_book",
        context=(),
        oracle_present=False,
        target="memorise",
        reasoning=(),
        base_row_id="a",
    ),
]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", ROWS)
    assert read_rows(tmp_path / "rows.parquet") == ROWS


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2], []], ids=["all", "no quotes", "none"])
def test_a_file_holds_what_models_say_of_themselves(tmp_path: Path, rows: list[RaftRow]) -> None:
    write_rows(tmp_path / "rows.parquet", rows)
    expected = pa.Table.from_pylist([row.model_dump() for row in rows], schema=ROW_SCHEMA)
    assert pq.read_table(tmp_path / "rows.parquet").equals(expected)


def test_row_groups_have_256_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", [ROWS[2]] * 513)
    metadata = pq.ParquetFile(tmp_path / "rows.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(3)] == [256, 256, 1]


def test_rows_are_validated_when_they_are_read(tmp_path: Path) -> None:
    wrong = ROWS[0].model_copy(update={"oracle_present": False})
    write_rows(tmp_path / "rows.parquet", [ROWS[1], wrong])
    rows = iter_rows(tmp_path / "rows.parquet")
    assert next(rows) == ROWS[1]
    with pytest.raises(ValidationError, match="oracle_present is False"):
        next(rows)


def test_every_field_of_a_row_has_a_column_of_its_name() -> None:
    assert list(RaftRow.model_fields) == ROW_SCHEMA.names
