"""Parquet and Arrow files, opened and read in bounded pieces.

Columns that hold bytes (images, audio) are left out, as JSON cannot carry them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline_lib.config.corpus import RecordColumns
from pipeline_lib.corpus.drops import DropReason, RefusedInputError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 1024
_MAX_GROUP_BYTES = 8 * 1000**3
"""Of one row group, uncompressed; writers make them of about 0.1 GB."""


class Table(Protocol):
    """A columnar file that is read in groups of rows."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""

    def groups(self) -> Iterator[int]:
        """The marks by which `batches` finds each group, in order."""

    def batches(self, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows of one group, a bounded number at a time."""


class _ParquetTable:
    """Groups are row groups."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path, pre_buffer=False)

    @property
    def schema(self) -> pa.Schema:
        return self._file.schema_arrow

    def groups(self) -> Iterator[int]:
        yield from range(self._file.num_row_groups)

    def batches(self, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        size = self._file.metadata.row_group(group).total_byte_size
        if size > _MAX_GROUP_BYTES:
            raise RefusedInputError(
                DropReason.TOO_LARGE,
                f"row group {group} holds {size} bytes; at most {_MAX_GROUP_BYTES} are read",
            )
        yield from self._file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns)


class _ArrowFile:
    """Arrow's file format, also called feather; groups are record batches."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._reader = pa.ipc.open_file(pa.OSFile(str(path)))

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def groups(self) -> Iterator[int]:
        yield from range(self._reader.num_record_batches)

    def batches(self, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield from _slices(self._reader.get_batch(group), columns)


class _ArrowStream:
    """Arrow's stream format, in which datasets are saved; a group is the byte where a batch begins.

    So a batch is found without reading those before it, unless dictionaries come with them.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._source = pa.OSFile(str(path))
        self._reader = pa.ipc.open_stream(self._source)
        self._has_dictionaries = any(
            _holds(entry.type, pa.types.is_dictionary) for entry in self._reader.schema
        )
        self._last: tuple[int, pa.RecordBatch] | None = None

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def groups(self) -> Iterator[int]:
        while True:
            position = int(self._source.tell())
            try:
                self._last = position, self._reader.read_next_batch()
            except StopIteration:
                return
            yield position

    def batches(self, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if self._last is None or self._last[0] != group:
            self._find(group)
        if self._last is not None:
            yield from _slices(self._last[1], columns)

    def _find(self, group: int) -> None:
        if self._has_dictionaries:
            next((position for position in self.groups() if position == group), None)
            return
        self._source.seek(group)
        self._last = group, self._reader.read_next_batch()


def _slices(batch: pa.RecordBatch, columns: list[str]) -> Iterator[pa.RecordBatch]:
    batch = batch.select(columns)
    batch.validate(full=True)  # its offsets may point anywhere
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield batch.slice(start, _BATCH_ROWS)


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """A parquet or Arrow file, told apart by its first bytes.

    Raises:
        RefusedInputError: it is damaged.
    """
    import pyarrow as pa

    with path.open("rb") as stream:
        head = stream.read(8)
    try:
        if head.startswith(b"PAR1"):
            yield _ParquetTable(path)
        elif head.startswith(b"ARROW1"):
            yield _ArrowFile(path)
        else:
            yield _ArrowStream(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RefusedInputError(DropReason.BROKEN_FILE, str(error).splitlines()[0]) from error


def read_columns(schema: pa.Schema, columns: RecordColumns) -> tuple[str, ...]:
    """Which columns a parser needs, in the order of the file.

    Raises:
        RefusedInputError: there is no text column; says which there are.
    """
    if columns.text not in schema.names:
        raise RefusedInputError(
            DropReason.MISSING_COLUMN,
            f"there is no column {columns.text!r}; the columns are {', '.join(schema.names)}",
        )
    wanted = None
    if columns.metadata is not None:
        wanted = {columns.text, columns.id, columns.title, columns.uri, *columns.metadata}

    return tuple(
        entry.name
        for entry in schema
        if (wanted is None or entry.name in wanted) and not _holds(entry.type, _is_bytes)
    )


def _holds(kind: pa.DataType, is_wanted: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type, or one inside it, is of some kind."""
    import pyarrow as pa

    if is_wanted(kind):
        return True
    if not pa.types.is_nested(kind):
        return False
    return any(_holds(kind.field(i).type, is_wanted) for i in range(kind.num_fields))


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )
