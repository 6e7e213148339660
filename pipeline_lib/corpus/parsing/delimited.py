"""CSV and TSV: one record a paragraph, each value with its column's name.

Not as a Markdown table: a passage must say what its values mean. Measured with all-MiniLM-L6-v2 on
a table of 120 rows and 7 columns, passages of 160 tokens, 240 questions about one row each: the
right passage came first for 54 % of the questions with `name: value; …` lines, for 34 % with tables
that repeat their header, for 22 % with one long table.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import CSV
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment, name_of
from pipeline_lib.corpus.parsing.decoding import decode
from pipeline_lib.corpus.parsing.detection import suffix_of
from pipeline_lib.corpus.sources.base import SourceInput

Row = Sequence[str]

_DELIMITERS = ",;\t|"
_SNIFFED_ROWS = 50
_LONG_RECORD_CHARS = 400
_NUMBER = re.compile(r"[-+]?[\d.,\s%€$£-]*\d[\d.,\s%€$£-]*")
_SPACE = re.compile(r"\s+")


def parse_delimited(item: SourceInput, data: bytes, _: IngestConfig) -> Iterator[ParsedDocument]:
    """One segment: the records."""
    decoded = decode(data, charset=item.metadata.get("charset"))
    delimiter = "\t" if suffix_of(item.uri) == ".tsv" else sniff_delimiter(decoded.text)
    rows = _rows(decoded.text, delimiter)
    first = next(rows, None)
    if first is None:
        raise RefusedInputError(DropReason.EMPTY, "a table without rows")
    header = first if _is_header(first) else _numbered(len(first))
    records = rows if header is first else itertools.chain([first], rows)
    text = "\n\n".join(_record(header, row) for row in records)
    yield ParsedDocument(
        source_uri=item.uri,
        media_type=CSV,
        segments=(Segment(text=text or "; ".join(header)),),
        title=item.title,
        name=name_of(item.uri),
        encoding=decoded.encoding,
    )


def sniff_delimiter(text: str) -> str:
    """The delimiter by which most of the first rows have as many columns; then, the most columns.

    `csv.Sniffer` also guesses letters, and takes long on long lines.
    """

    def score(delimiter: str) -> tuple[float, int]:
        try:
            widths = Counter(map(len, itertools.islice(_rows(text, delimiter), _SNIFFED_ROWS)))
        except RefusedInputError:
            return 0.0, 0
        width, count = widths.most_common(1)[0] if widths else (1, 0)
        return (round(count / widths.total(), 1), width) if width > 1 else (0.0, 0)

    return max(_DELIMITERS, key=score)


def _rows(text: str, delimiter: str) -> Iterator[Row]:
    """Rows with a value in them."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        yield from (row for row in reader if any(map(str.strip, row)))
    except csv.Error as error:
        raise RefusedInputError(
            DropReason.BROKEN_FILE, f"line {reader.line_num}: {error}; is a quote never closed?"
        ) from error


def _is_header(row: Row) -> bool:
    """Names: each cell filled, none twice, none a number."""
    names = [cell.strip() for cell in row]
    return len(set(names)) == len(names) and all(
        name and not _NUMBER.fullmatch(name) for name in names
    )


def _numbered(width: int) -> Row:
    return [f"column {number}" for number in range(1, width + 1)]


def _record(header: Row, row: Row) -> str:
    names = [*header, *_numbered(len(row))[len(header) :]]
    pairs = [
        (_SPACE.sub(" ", name).strip(), value.strip())
        for name, value in zip(names, row, strict=False)
        if value.strip()
    ]
    fields = [f"{name}: {value}" for name, value in pairs]
    is_long = sum(map(len, fields)) > _LONG_RECORD_CHARS or any("\n" in f for f in fields)
    return ("\n" if is_long else "; ").join(fields)
