"""Parquet files written row group by row group, so that memory does not grow with the corpus."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 2_000
ROW_GROUP_CHARS = 8_000_000

Row = TypeVar("Row")


class ParquetWriter(Generic[Row]):
    """Writes dataclass instances; closes the file when its block ends.

    Equal rows give equal bytes. A block that raises leaves an unfinished file behind: the folder
    it is in is thrown away.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._num_chars = 0
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
            self._flush()
        self._writer.close()

    def write(self, row: Row) -> None:
        """Add one row; a full row group goes to disk."""
        values = vars(row)
        self._rows.append(values)
        self._num_chars += sum(len(value) for value in values.values() if isinstance(value, str))
        self.num_rows += 1
        if len(self._rows) >= ROW_GROUP_ROWS or self._num_chars >= ROW_GROUP_CHARS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._num_chars = [], 0
