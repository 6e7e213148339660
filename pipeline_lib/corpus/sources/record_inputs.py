"""Files of records as inputs: one for each run of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline_lib.config.corpus import IngestLimits, RecordColumns
from pipeline_lib.corpus.media_types import JSONL
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import Examined, RecordRun, SourceInput
from pipeline_lib.corpus.sources.containers import Container
from pipeline_lib.corpus.sources.files import LocalFile
from pipeline_lib.corpus.sources.locators import LinesLocator, RowsLocator
from pipeline_lib.corpus.sources.records import Run, line_runs, row_runs
from pipeline_lib.corpus.sources.tables import open_table, read_columns

_DIGEST_IN_URI = 16


def record_inputs(
    file: LocalFile, kind: Container, limits: IngestLimits, columns: RecordColumns
) -> Iterator[Examined]:
    """The runs of a file of records, and a drop for each record that is too large.

    Raises:
        RefusedInputError: a table is damaged or lacks the text column.
    """
    seen: Counter[str] = Counter()
    key = file.cache_key()
    if kind is Container.LINES:
        for run in line_runs(file.path, file.uri, limits.max_file_bytes):
            yield (
                run
                if isinstance(run, Drop)
                else _run_input(file, run, seen, _lines(file, key, run))
            )
        return
    with open_table(file.path) as table:
        names = read_columns(table.schema, columns)
        for run in row_runs(table, names, file.uri, limits.max_file_bytes):
            if isinstance(run, Drop):
                yield run
            else:
                yield _run_input(file, run, seen, _rows(file, key, run, names))


def _lines(file: LocalFile, key: str, run: Run) -> LinesLocator:
    return LinesLocator(file=file.locator, file_sha256=key, start=run.start, end=run.end)


def _rows(file: LocalFile, key: str, run: Run, columns: tuple[str, ...]) -> RowsLocator:
    return RowsLocator(
        file=file.locator,
        file_sha256=key,
        group=run.group,
        start=run.start,
        end=run.end,
        columns=columns,
    )


def _run_input(
    file: LocalFile, run: Run, seen: Counter[str], locator: LinesLocator | RowsLocator
) -> SourceInput:
    mark = run.content_sha256[:_DIGEST_IN_URI]
    seen[mark] += 1
    if seen[mark] > 1:
        mark += f"-{seen[mark]}"
    return SourceInput(
        uri=f"{file.uri}#records-{mark}",
        locator=locator,
        content_sha256=run.content_sha256,
        size_bytes=run.size_bytes,
        media_type=JSONL,
        metadata=file.metadata,
        records=RecordRun(file_uri=file.uri, first_number=run.first_number),
    )
