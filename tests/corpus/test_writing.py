"""Parquet in bounded row groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.corpus import writing
from pipeline_lib.corpus.schema import DROP_SCHEMA, Drop
from pipeline_lib.corpus.writing import ParquetWriter, TableWriter, to_table


def drop(number: int, detail: str = "") -> Drop:
    return Drop(source_uri=f"file:{number}", reason="empty", detail=detail)


def write(path: Path, drops: Iterable[Drop], **limits: int) -> list[int]:
    """How many rows each row group has."""
    with ParquetWriter[Drop](path, DROP_SCHEMA, **limits) as writer:
        for each in drops:
            writer.write(each)
    return rows_per_group(path)


def rows_per_group(path: Path) -> list[int]:
    metadata = pq.ParquetFile(path).metadata
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", map(drop, range(5)))
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["source_uri"] for row in rows] == [f"file:{number}" for number in range(5)]


def test_no_rows_give_a_readable_empty_file(tmp_path: Path) -> None:
    assert write(tmp_path / "x.parquet", ()) == []
    assert pq.read_table(tmp_path / "x.parquet").schema.equals(DROP_SCHEMA)


@pytest.mark.parametrize("limits", [{"max_rows": 2}, {"max_chars": 200}])
def test_row_groups_are_bounded_by_rows_and_by_characters(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    drops = (drop(number, "x" * 95) for number in range(5))
    assert write(tmp_path / "x.parquet", drops, **limits) == [2, 2, 1]


def test_the_last_full_row_group_has_no_empty_one_behind_it(tmp_path: Path) -> None:
    assert write(tmp_path / "x.parquet", map(drop, range(4)), max_rows=2) == [2, 2]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, [drop(1)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_closing_more_than_once_changes_nothing(tmp_path: Path) -> None:
    with ParquetWriter[Drop](tmp_path / "x.parquet", DROP_SCHEMA) as writer:
        writer.write(drop(1))
        writer.close()
    assert rows_per_group(tmp_path / "x.parquet") == [1]


def test_a_block_that_raises_closes_the_file_without_its_last_rows(tmp_path: Path) -> None:
    def drops() -> Iterator[Drop]:
        yield from map(drop, range(3))
        raise KeyError

    with pytest.raises(KeyError):
        write(tmp_path / "x.parquet", drops(), max_rows=2)
    assert rows_per_group(tmp_path / "x.parquet") == [2]


def test_rows_that_cannot_be_written_close_the_file_too(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    writer = ParquetWriter[Leaf](path, pa.schema([("number", pa.int8())]))
    writer.write(Leaf(number=300))
    with pytest.raises(pa.ArrowInvalid):
        writer.close()
    assert rows_per_group(path) == []


def test_tables_are_joined_to_row_groups_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 2 * 80)
    table = pa.table({"number": pa.array(range(10), pa.int64())})
    with TableWriter(tmp_path / "x.parquet", table.schema) as writer:
        for _ in range(5):
            writer.write(table)
    assert rows_per_group(tmp_path / "x.parquet") == [20, 20, 10]
    assert pq.read_table(tmp_path / "x.parquet").column("number").to_pylist() == [*range(10)] * 5


@dataclass
class Leaf:
    number: int | None


@dataclass
class Branch:
    name: str | None
    leaf: Leaf | None = None
    leaves: tuple[Leaf | None, ...] = ()
    tags: tuple[str, ...] = ()


_LEAF = pa.struct([("number", pa.int8())])
BRANCH_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("leaf", _LEAF),
        ("leaves", pa.list_(_LEAF)),
        ("tags", pa.list_(pa.string())),
    ]
)


@pytest.mark.parametrize(
    "branches",
    [
        [],
        [Branch("bare")],
        [Branch(None, Leaf(None))],
        [Branch("a", leaves=(Leaf(1), None, Leaf(2))), Branch("b"), Branch("c", leaves=(Leaf(3),))],
        [Branch("a", Leaf(1), tags=("x", "y")), Branch("b", None, tags=("z",))],
    ],
)
def test_records_become_the_table_that_their_dictionaries_make(branches: list[Branch]) -> None:
    def as_dict(leaf: Leaf | None) -> dict[str, Any] | None:
        return None if leaf is None else vars(leaf)

    rows = [
        {**vars(b), "leaf": as_dict(b.leaf), "leaves": [as_dict(leaf) for leaf in b.leaves]}
        for b in branches
    ]
    table = to_table(branches, BRANCH_SCHEMA)
    table.validate(full=True)
    assert table.equals(pa.Table.from_pylist(rows, schema=BRANCH_SCHEMA))


def test_only_text_in_columns_of_its_own_counts(tmp_path: Path) -> None:
    schema = BRANCH_SCHEMA
    with ParquetWriter[Branch](tmp_path / "x.parquet", schema, max_chars=10) as writer:
        for name in ("12345", None, "67890", "1"):
            writer.write(Branch(name, tags=("long " * 9,)))
    assert rows_per_group(tmp_path / "x.parquet") == [3, 1]
