"""Workbooks: a segment a sheet."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from pipeline_lib.config import ChunkConfig, IngestConfig
from pipeline_lib.config.corpus import IngestLimits
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.parsing.tables import markdown_table, table_blocks
from pipeline_lib.corpus.schema import Drop

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]
ToBytes = Callable[[Any], bytes]


def test_sheets_with_their_names_and_values(parse_one: ParseOne, to_bytes: ToBytes) -> None:
    import openpyxl

    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.title = "Zonen"
    for row in (
        ["Delivery zones 2024"],
        [],
        ["zone", "days", "since", "checked", "express"],
        ["A", 3, datetime.date(2024, 2, 29), datetime.datetime(2024, 3, 1, 9, 30), True],
        ["B", 4.5, None, None, False],
        ["total", "=SUM(B4:B5)"],
    ):
        sheet.append(row)
    workbook.create_sheet("empty")
    workbook.properties.title = "Zones"
    parsed = parse_one(to_bytes(workbook), "file:a.xlsx")
    assert parsed.segments == (
        Segment(
            text="Delivery zones 2024\n\n"
            "| zone | days | since | checked | express |\n"
            "| --- | --- | --- | --- | --- |\n"
            "| A | 3 | 2024-02-29 | 2024-03-01 09:30:00 | TRUE |\n"
            "| B | 4.5 |  |  | FALSE |\n"
            "| total |  |  |  |  |",  # a formula that no program has computed yet
            kind="sheet",
            label="Zonen",
        ),
    )
    assert parsed.title == "Zones"


def test_long_tables_repeat_their_header(parse_one: ParseOne, to_bytes: ToBytes) -> None:
    import openpyxl

    workbook = openpyxl.Workbook()
    workbook.active.append(["name", "value"])
    for number in range(40):
        workbook.active.append([f"row {number}", number])
    config = IngestConfig(chunking=ChunkConfig(size_tokens=64))
    text = parse_one(to_bytes(workbook), "file:a.xlsx", config=config).segments[0].text
    blocks = text.split("\n\n")
    assert len(blocks) > 2
    assert all(block.startswith("| name | value |\n| --- | --- |\n| row ") for block in blocks)
    assert max(map(len, blocks)) <= 64 * 3
    assert [line for line in text.split("\n") if line.startswith("| row")] == [
        f"| row {number} | {number} |" for number in range(40)
    ]


def test_a_claimed_million_rows_is_not_a_million_lines(
    parse_one: ParseOne, to_bytes: ToBytes, changed_member: Callable[..., bytes]
) -> None:
    import openpyxl

    workbook = openpyxl.Workbook()
    workbook.active.append(["a", "b"])
    data = changed_member(
        to_bytes(workbook),
        "xl/worksheets/sheet1.xml",
        lambda xml: xml.replace(b'ref="A1:B1"', b'ref="A1:XFD1048576"'),
    )
    assert parse_one(data, "file:a.xlsx").segments[0].text == "| a | b |\n| --- | --- |"


def test_bounds_and_bad_files(
    refuse: Refuse, to_bytes: ToBytes, changed_member: Callable[..., bytes]
) -> None:
    import openpyxl

    workbook = openpyxl.Workbook()
    assert refuse(to_bytes(workbook), "file:a.xlsx").reason == "no_text"
    workbook.create_sheet("two")
    data = to_bytes(workbook)
    config = IngestConfig(limits=IngestLimits(max_pages=1))
    assert refuse(data, "file:a.xlsx", config=config).reason == "too_many_pages"
    assert refuse(data[:-50], "file:a.xlsx").reason == "broken_file"
    bomb = changed_member(data, "xl/worksheets/sheet1.xml", lambda xml: xml + b" " * 10**7)
    config = IngestConfig(limits=IngestLimits(max_unpacked_bytes=10**6))
    assert refuse(bomb, "file:a.xlsx", config=config).reason == "unpacked_too_large"


def test_a_row_longer_than_a_block_still_gets_one() -> None:
    blocks = list(table_blocks(["h"], [["x" * 50], [" "], ["y"]], max_chars=30))
    assert blocks == [f"| h |\n| --- |\n| {'x' * 50} |", "| h |\n| --- |\n| y |"]


def test_ragged_and_empty_tables() -> None:
    assert markdown_table([["a"], ["b", "c"]]) == "| a |  |\n| --- | --- |\n| b | c |"
    assert markdown_table([["", " "], []]) == ""
