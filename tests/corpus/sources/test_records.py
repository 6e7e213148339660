"""Files of records come in runs that are read as JSON Lines."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from pipeline_lib.corpus.sources import records
from pipeline_lib.corpus.sources.base import SourceInput, SourceScan

Scan = Callable[..., SourceScan]
Read = Callable[[SourceInput], bytes]


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 2 to 8 kB instead of megabytes."""
    monkeypatch.setattr(records, "SHORTEST_RUN_BYTES", 2_000)
    monkeypatch.setattr(records, "LONGEST_RUN_BYTES", 8_000)
    monkeypatch.setattr(records, "_MEAN_REST_BYTES", 2_000)


def lines(count: int) -> list[bytes]:
    draw = random.Random(3)
    return [
        json.dumps({"id": n, "text": "x" * draw.randrange(200)}).encode() + b"\n"
        for n in range(count)
    ]


def rows(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.splitlines()]


def reasons(result: SourceScan) -> dict[str, str]:
    return {drop.source_uri: drop.reason for drop in result.drops}


@pytest.mark.usefixtures("small_runs")
def test_runs_of_lines_cover_the_file_and_end_at_line_ends(
    scan: Scan, read: Read, tmp_path: Path
) -> None:
    whole = b"".join(lines(500))
    path = tmp_path / "a.jsonl"
    path.write_bytes(whole.rstrip(b"\n"))  # the last line may lack its end
    found = scan(path).inputs
    pieces = [read(item) for item in found]
    assert b"".join(pieces) == whole.rstrip(b"\n")
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    assert len(pieces) > 10
    assert all(2_000 <= len(piece) <= 8_300 for piece in pieces[:-1])


@pytest.mark.usefixtures("small_runs")
def test_each_run_says_its_file_and_its_first_line(scan: Scan, read: Read, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(lines(200)))
    for item in scan(path).inputs:
        assert item.media_type == "application/jsonl"
        assert item.records is not None
        assert item.records.file_uri == "file:a.jsonl"
        assert item.records.first_number == rows(read(item))[0]["id"] + 1  # type: ignore[operator]


@pytest.mark.usefixtures("small_runs")
def test_an_insertion_changes_the_run_it_falls_into_and_no_other(
    scan: Scan, tmp_path: Path
) -> None:
    path, content = tmp_path / "a.jsonl", lines(500)
    path.write_bytes(b"".join(content))
    before = {item.uri for item in scan(path).inputs}
    path.write_bytes(b"".join([*content[:100], b'{"text": "new"}\n', *content[100:]]))
    after = {item.uri for item in scan(path).inputs}
    assert len(before) > 10
    assert len(before - after) <= 2
    assert len(after - before) <= 2


@pytest.mark.usefixtures("small_runs")
def test_equal_runs_have_names_of_their_own(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes((b'{"text": "' + b"x" * 7_990 + b'"}\n') * 3)
    uris = [item.uri for item in scan(path).inputs]
    assert len(set(uris)) == 3
    assert [uri.removeprefix(uris[0]) for uri in uris] == ["", "-2", "-3"]


def test_a_line_that_is_too_long_is_a_drop_and_the_others_are_kept(
    scan: Scan, read: Read, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * 3_000_000 + b'\n{"text": "b"}\n' + b"y" * 200)
    result = scan(path, limits={"max_file_bytes": 100})
    assert [read(item) for item in result.inputs] == [b'{"text": "a"}\n', b'{"text": "b"}\n']
    assert [item.records.first_number for item in result.inputs if item.records] == [1, 3]
    assert reasons(result) == {
        "file:a.jsonl#line-2": "too_large",
        "file:a.jsonl#line-4": "too_large",
    }


def test_a_large_file_of_records_is_streamed(
    scan: Scan, tmp_path: Path, peak_memory: Callable[[], int]
) -> None:
    path = tmp_path / "a.jsonl"
    line = json.dumps({"text": "x" * 10_000}).encode() + b"\n"
    with path.open("wb") as stream:
        for _ in range(10_000):
            stream.write(line)
    before = peak_memory()
    result = scan(path, limits={"max_file_bytes": 1_000_000})
    assert sum(item.size_bytes for item in result.inputs) == path.stat().st_size > 100_000_000
    assert peak_memory() - before < 30_000_000


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.ndjson", '{"text": "a"}\n', True),
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', True),
        ("a.json", '{"text": "a"}\n', False),
        ("a.json", '{\n "text": "a"\n}\n', False),
        ("a.json", '[\n{"text": "a"},\n{"text": "b"}\n]\n', False),
    ],
)
def test_json_files_are_records_when_each_line_is_an_object(
    scan: Scan, tmp_path: Path, name: str, content: str, expected: bool
) -> None:
    (tmp_path / name).write_text(content)
    (item,) = scan(tmp_path / name).inputs
    assert (item.records is not None) == expected


def test_an_empty_file_of_records_is_a_drop(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    result = scan(tmp_path / "a.jsonl")
    assert (result.inputs, reasons(result)) == ((), {"file:a.jsonl": "empty"})


TABLE = pa.table(
    {
        "text": ["één", "two\nlines", None, "four"],
        "image": [b"\x00"] * 4,
        "nested": [{"raw": b"\x00"}] * 4,
        "score": [0.5, float("nan"), None, 1.0],
        "day": [datetime.date(2024, 2, 29)] * 4,
        "tags": [["a"], [], None, ["b", "c"]],
    }
)
EXPECTED = [
    {"text": "één", "score": 0.5, "day": "2024-02-29", "tags": ["a"]},
    {"text": "two\nlines", "score": None, "day": "2024-02-29", "tags": []},
    {"text": None, "score": None, "day": "2024-02-29", "tags": None},
    {"text": "four", "score": 1.0, "day": "2024-02-29", "tags": ["b", "c"]},
]


def write_table(path: Path, table: pa.Table = TABLE, rows_per_group: int = 3) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows_per_group)
    elif path.suffix == ".feather":
        feather.write_feather(table, path, chunksize=rows_per_group)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows_per_group)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrow"])
def test_rows_are_read_as_lines_of_json_without_columns_of_bytes(
    scan: Scan, read: Read, tmp_path: Path, suffix: str
) -> None:
    result = scan(write_table(tmp_path / f"a.{suffix}"))
    found = [rows(read(item)) for item in result.inputs]
    assert found == [EXPECTED[:3], EXPECTED[3:]]
    assert [item.records.first_number for item in result.inputs if item.records] == [1, 4]


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrow"])
def test_a_large_group_is_read_in_several_runs(
    scan: Scan, read: Read, tmp_path: Path, suffix: str
) -> None:
    texts = [f"{n} " + "x" * 100 for n in range(3_000)]
    path = write_table(tmp_path / f"a.{suffix}", pa.table({"text": texts}), 2_000)
    found = scan(path).inputs
    assert len(found) > 50
    pieces = {item.uri: read(item) for item in reversed(found)}  # in any order
    read_back = [row["text"] for item in found for row in rows(pieces[item.uri])]
    assert read_back == texts


def test_columns_of_categories_are_read(scan: Scan, read: Read, tmp_path: Path) -> None:
    kinds = pa.array(["a", "b", "a", "b"]).dictionary_encode()
    table = pa.table({"text": ["1", "2", "3", "4"], "kind": kinds})
    found = scan(write_table(tmp_path / "a.arrow", table, 2)).inputs
    assert [row["kind"] for item in reversed(found) for row in rows(read(item))] == list("abab")


def test_only_the_columns_that_are_wanted_are_read(scan: Scan, read: Read, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet")
    (first, _) = scan(path, records={"metadata": ["day"]}).inputs
    assert rows(read(first))[0] == {"text": "één", "day": "2024-02-29"}


def test_a_parquet_file_without_the_text_column_is_a_drop_that_names_its_columns(
    scan: Scan, tmp_path: Path
) -> None:
    path = write_table(tmp_path / "a.parquet", pa.table({"body": ["x"], "id": [1]}))
    (drop,) = scan(path).drops
    assert (drop.source_uri, drop.reason) == ("file:a.parquet", "missing_column")
    assert "'text'" in drop.detail
    assert "body, id" in drop.detail
    assert "records.text" in drop.remedy
    assert len(scan(path, records={"text": "body"}).inputs) == 1


def test_a_row_that_is_too_large_is_a_drop_and_the_others_are_kept(
    scan: Scan, read: Read, tmp_path: Path
) -> None:
    path = write_table(tmp_path / "a.parquet", pa.table({"text": ["a", "b" * 500, "c"]}))
    result = scan(path, limits={"max_file_bytes": 100})
    assert [rows(read(item)) for item in result.inputs] == [[{"text": "a"}], [{"text": "c"}]]
    assert reasons(result) == {"file:a.parquet#row-2": "too_large"}


@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrow"])
def test_a_damaged_table_is_a_drop(scan: Scan, tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"a.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    result = scan(path)
    assert (result.inputs, reasons(result)) == ((), {f"file:a.{suffix}": "broken_file"})


def test_invalid_utf8_in_a_column_is_a_drop(scan: Scan, tmp_path: Path) -> None:
    binary = pa.array([b"\xff\xfe"], pa.binary())
    text = pa.StringArray.from_buffers(1, binary.buffers()[1], binary.buffers()[2])
    path = write_table(tmp_path / "a.parquet", pa.table({"text": text}))
    assert reasons(scan(path)) == {"file:a.parquet": "broken_file"}
