"""Workbooks: one segment a sheet, its rows as Markdown tables that repeat the header.

Cells show the values that the program last computed; dates and times are ISO 8601. Rows stream, so
a sheet that claims a million empty rows costs nothing but time.
"""

from __future__ import annotations

import datetime
import io
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import XLSX
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.parsing.office import check_pages, office_document
from pipeline_lib.corpus.parsing.packages import open_package
from pipeline_lib.corpus.parsing.tables import Row, block_chars, table_blocks
from pipeline_lib.corpus.sources.base import SourceInput

_MAX_COLUMNS = 256
"""Wider sheets are data, not documents; further columns are left out."""


def parse_xlsx(item: SourceInput, data: bytes, config: IngestConfig) -> Iterator[ParsedDocument]:
    """Sheets with text, labelled by their names, hidden ones included. Charts are left out."""
    with warnings.catch_warnings():
        # openpyxl warns of extensions that it leaves out, such as conditional formats.
        warnings.simplefilter("ignore", UserWarning)
        yield _document(item, data, config)


def _document(item: SourceInput, data: bytes, config: IngestConfig) -> ParsedDocument:
    import openpyxl

    open_package(data, config, "Excel").close()
    try:
        workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RefusedInputError(
            DropReason.BROKEN_FILE, f"not a valid Excel file: {error}"
        ) from error
    num_sheets = len(workbook.sheetnames)
    check_pages(num_sheets, "sheets", config)
    segments = []
    for sheet in workbook.worksheets:
        sheet.reset_dimensions()  # what the file claims may be a million columns, or one
        text = "\n\n".join(_blocks(sheet, block_chars(config)))
        if text:
            segments.append(Segment(text=text, kind="sheet", label=sheet.title))
    if not segments:
        raise RefusedInputError(DropReason.NO_TEXT, f"no cell of {num_sheets} sheets holds a value")
    return office_document(item, XLSX, segments, workbook.properties)


def _blocks(sheet: Any, max_chars: int) -> Iterator[str]:
    """Rows of one cell above the table are its caption; the first with more is its header."""
    rows = _rows(sheet)
    for row in rows:
        if sum(map(bool, row)) > 1:
            yield from table_blocks(row, rows, max_chars)
        else:
            yield "".join(row)


def _rows(sheet: Any) -> Iterator[Row]:
    """Rows with a value, without the empty cells at their ends."""
    for row in sheet.iter_rows(max_col=_MAX_COLUMNS, values_only=True):
        cells = list(map(_cell, row))
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            yield cells


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime):
        is_date = value.time() == datetime.time()
        return value.date().isoformat() if is_date else value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
