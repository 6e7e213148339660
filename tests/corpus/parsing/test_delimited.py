"""CSV and TSV: each value with its column's name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline_lib.corpus.parsing.base import ParsedDocument
from pipeline_lib.corpus.parsing.delimited import sniff_delimiter
from pipeline_lib.corpus.schema import Drop

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]


def test_rows_become_records(parse_one: ParseOne) -> None:
    data = b'zone,days,note\nA,3,"fast, insured"\n\nB,,\n'
    parsed = parse_one(data, "file:zones.csv")
    assert parsed.segments[0].text == "zone: A; days: 3; note: fast, insured\n\nzone: B"
    assert (parsed.name, parsed.is_markdown) == ("zones", False)


@pytest.mark.parametrize("encoding", ["cp932", "utf-8-sig", "utf-16", "euc_jp"])
def test_any_encoding(parse_one: ParseOne, encoding: str) -> None:
    table = (
        "商品名,価格,説明\n緑茶,500,静岡県産のおいしい緑茶です。\n煎餅,300,醤油味のお菓子です。\n"
    )
    parsed = parse_one(table.encode(encoding), "file:a.csv")
    assert parsed.segments[0].text == (
        "商品名: 緑茶; 価格: 500; 説明: 静岡県産のおいしい緑茶です。\n\n"
        "商品名: 煎餅; 価格: 300; 説明: 醤油味のお菓子です。"
    )


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a;b\n1,5;2,5\n3,5;4,5\n", ";"),
        ("a,b,c\n1,2,3\n", ","),
        ("a\tb\n1, 2\t3\n", "\t"),
        ("a|b\n1|2\n", "|"),
        ("only\none\ncolumn\n", ","),
        ('name,text\nx,"a; b; c; d"\ny,"e; f; g; h"\n', ","),
    ],
)
def test_the_delimiter_is_found(text: str, delimiter: str) -> None:
    assert sniff_delimiter(text) == delimiter


def test_tsv_is_cut_at_tabs_only(parse_one: ParseOne) -> None:
    assert parse_one(b"a,b,c\td\n1,2,3\t4\n", "file:a.tsv").segments[0].text == "a,b,c: 1,2,3; d: 4"


def test_a_table_without_header_gets_numbered_columns(parse_one: ParseOne) -> None:
    text = parse_one(b"A,3\nB,4\n", "file:a.csv").segments[0].text
    assert text == "column 1: A; column 2: 3\n\ncolumn 1: B; column 2: 4"


def test_long_values_get_lines_of_their_own(parse_one: ParseOne) -> None:
    text = parse_one(b'id,text\n7,"first line\nsecond line"\n', "file:a.csv").segments[0].text
    assert text == "id: 7\ntext: first line\nsecond line"


def test_longer_rows_than_the_header_lose_nothing(parse_one: ParseOne) -> None:
    assert parse_one(b"a,b\n1,2,3\n", "file:a.csv").segments[0].text == "a: 1; b: 2; column 3: 3"


def test_a_quote_that_is_never_closed_is_a_drop(refuse: Refuse) -> None:
    drop = refuse(b'a,b\n1,"' + b"x\n" * 100_000, "file:a.csv")
    assert drop.reason == "broken_file"
    assert "is a quote never closed?" in drop.detail


@pytest.mark.parametrize("data", [b"", b"\n\n", b",,\n,,\n"])
def test_a_table_without_values_is_a_drop(refuse: Refuse, data: bytes) -> None:
    assert refuse(data, "file:a.csv").reason == "empty"
