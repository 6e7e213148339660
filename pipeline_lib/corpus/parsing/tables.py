"""Tables as Markdown, in blocks that each carry the header.

A chunk that holds the fortieth row of a table without its header says nothing. So a long table is
written as several, each with the header and about as many rows as fit into one chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pipeline_lib.config import IngestConfig

_SPACE = re.compile(r"\s+")
_CHARS_PER_TOKEN = 3
"""Below the four of English prose: tables are numbers and names, which take more tokens."""

Row = Sequence[str]


def block_chars(config: IngestConfig) -> int:
    """How long a block of a table may be, in characters, so that it most likely fits one chunk."""
    return config.chunking.size_tokens * _CHARS_PER_TOKEN


def markdown_table(rows: Sequence[Row]) -> str:
    """One table; its first row is the header. Empty when no cell holds text."""
    width = max(map(len, rows), default=0)
    if not any(map(_has_text, rows)):
        return ""
    return "\n".join([*_header_lines(rows[0], width), *(_line(row, width) for row in rows[1:])])


def table_blocks(header: Row, rows: Iterable[Row], max_chars: int) -> Iterator[str]:
    """Tables of at least one row, each below the header; none longer than `max_chars` if it can be.

    Rows without text are left out. A table without any row is its header alone.
    """
    head = _header_lines(header, len(header))
    block, size, is_empty = list(head), 0, True
    head_chars = size = sum(map(len, head)) + len(head)
    for row in filter(_has_text, rows):
        line = _line(row, len(header))
        if len(block) > len(head) and size + len(line) > max_chars:
            yield "\n".join(block)
            block, size = list(head), head_chars
        block.append(line)
        size += len(line) + 1
        is_empty = False
    if len(block) > len(head) or is_empty:
        yield "\n".join(block)


def _header_lines(header: Row, width: int) -> list[str]:
    return [_line(header, width), "|" + " --- |" * max(width, 1)]


def _line(row: Row, width: int) -> str:
    cells = [_cell(value) for value in row]
    cells += [""] * (width - len(cells))
    return "| " + " | ".join(cells) + " |"


def _cell(value: str) -> str:
    return _SPACE.sub(" ", value).strip().replace("|", "\\|")


def _has_text(row: Row) -> bool:
    return any(value and not value.isspace() for value in row)
