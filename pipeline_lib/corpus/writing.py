"""Parquet files written row group by row group, so that memory does not grow with their length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, chain
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 2_000
ROW_GROUP_CHARS = 8_000_000
ROW_GROUP_BYTES = 16_000_000

Item = TypeVar("Item")
Record = TypeVar("Record")


class _RowGroupWriter(ABC, Generic[Item]):
    """Gathers what is written until it makes a row group; a context manager.

    Equal items give equal bytes. The file is finished when the block ends, even without rows; a
    block that raises leaves an unfinished file behind: the folder it is in is thrown away.

    Args:
        path: the file.
        schema: of its rows.
        max_size: a row group ends when the sizes of its items add up to this.
        max_items: or when it has so many.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, *, max_size: int, max_items: int | None = None
    ) -> None:
        self._schema = schema
        self._max_size = max_size
        self._max_items = max_items
        self._items: list[Item] = []
        self._total_size = 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._writer.close()

    def write(self, item: Item) -> None:
        """Add an item; a full row group goes to disk."""
        self._items.append(item)
        self._total_size += self._size(item)
        if self._total_size >= self._max_size or len(self._items) == self._max_items:
            self._end_group()

    def close(self) -> None:
        """Finish the file; more than once does no harm."""
        try:
            self._end_group()
        finally:
            self._writer.close()

    def _end_group(self) -> None:
        items, self._items, self._total_size = self._items, [], 0
        if items:
            self._writer.write_table(self._table(items))

    @abstractmethod
    def _size(self, item: Item) -> int: ...

    @abstractmethod
    def _table(self, items: Sequence[Item]) -> pa.Table: ...


class TableWriter(_RowGroupWriter[pa.Table]):
    """Writes Arrow tables, joined to row groups of about `ROW_GROUP_BYTES`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        super().__init__(path, schema, max_size=ROW_GROUP_BYTES)

    def _size(self, item: pa.Table) -> int:
        num_bytes: int = item.nbytes
        return num_bytes

    def _table(self, items: Sequence[pa.Table]) -> pa.Table:
        return pa.concat_tables(items).combine_chunks()


class ParquetWriter(_RowGroupWriter[Record]):
    """Writes records (dataclasses or models, see `to_table`), one at a time.

    Args:
        path: the file.
        schema: of the records.
        max_rows: of a row group.
        max_chars: of a row group, counted in the columns that are text.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        max_rows: int = ROW_GROUP_ROWS,
        max_chars: int = ROW_GROUP_CHARS,
    ) -> None:
        super().__init__(path, schema, max_size=max_chars, max_items=max_rows)
        self._texts = [field.name for field in schema if pa.types.is_string(field.type)]

    def _size(self, item: Record) -> int:
        return sum([len(getattr(item, name) or "") for name in self._texts])

    def _table(self, items: Sequence[Record]) -> pa.Table:
        return to_table(items, self._schema)


def to_table(records: Sequence[object], schema: pa.Schema) -> pa.Table:
    """One row for each record.

    A column holds the attribute of its name; in it, a struct is a record again or `None`, and a
    list any sequence. Columns are built whole, because making dictionaries of records takes longer
    than converting what is in them.
    """
    return pa.Table.from_arrays([_column(records, field) for field in schema], schema=schema)


def _column(records: Sequence[object | None], field: pa.Field) -> pa.Array:
    name = field.name
    return _array([r if r is None else getattr(r, name) for r in records], field.type)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_struct(kind):
        fields = list(kind)
        columns = [_column(values, field) for field in fields]
        is_null = pa.array([value is None for value in values], pa.bool_())
        return pa.StructArray.from_arrays(columns, fields=fields, mask=is_null)
    if pa.types.is_list(kind):
        ends = pa.array(accumulate(map(len, values), initial=0), pa.int32())
        items = _array(list(chain.from_iterable(values)), kind.value_type)
        return pa.ListArray.from_arrays(ends, items, type=kind)
    return pa.array(values, kind)
