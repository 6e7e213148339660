"""Parquet files written row group by row group, so that memory does not grow with the corpus."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.corpus.schema import row_from

ROW_GROUP_ROWS = 2_000
ROW_GROUP_CHARS = 8_000_000
ROW_GROUP_BYTES = 16_000_000

Row = TypeVar("Row")


class TableWriter:
    """Writes Arrow tables, joined to row groups of about `ROW_GROUP_BYTES`.

    Equal tables give equal bytes. The file is closed when the block ends; a block that raises
    leaves an unfinished file behind: the folder it is in is thrown away.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._tables: list[pa.Table] = []
        self._num_bytes = 0
        self.num_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.flush()
        self._writer.close()

    def write_table(self, table: pa.Table) -> None:
        """Add rows; a full row group goes to disk."""
        self._tables.append(table)
        self._num_bytes += table.nbytes
        self.num_rows += table.num_rows
        if self._num_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """End the row group."""
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables).combine_chunks())
        self._tables, self._num_bytes = [], 0


class ParquetWriter(TableWriter, Generic[Row]):
    """Writes documents, chunks, drops or snapshot entries, one at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        super().__init__(path, schema)
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._num_chars = 0

    def write(self, row: Row) -> None:
        """Add one row; a full row group goes to disk."""
        values = row_from(row)
        self._rows.append(values)
        self._num_chars += sum(len(value) for value in values.values() if isinstance(value, str))
        self.num_rows += 1
        if len(self._rows) >= ROW_GROUP_ROWS or self._num_chars >= ROW_GROUP_CHARS:
            self.flush()

    def flush(self) -> None:
        """End the row group."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._num_chars = [], 0
