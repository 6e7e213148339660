"""What changed against the corpus before, and which documents can be taken from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_lib.corpus.row_access import GroupedRows
from pipeline_lib.corpus.schema import DROP_SCHEMA, Drop, SnapshotEntry
from pipeline_lib.corpus.snapshot import change_counts, compare, input_key
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.corpus.sources.locators import FileLocator
from pipeline_lib.corpus.writing import ParquetWriter

MakeInput = Callable[..., SourceInput]


def entries(inputs: list[SourceInput]) -> dict[str, SnapshotEntry]:
    return {entry.input_uri: entry for entry in compare(inputs, {})}


def test_a_snapshot_names_what_was_added_changed_removed_and_left_alone(
    source_input: MakeInput,
) -> None:
    before = entries([source_input(f"file:{name}", b"old") for name in ("gone", "same", "edited")])
    now = [
        source_input("file:new", b"new"),
        source_input("file:edited", b"newer"),
        source_input("file:same", b"old"),
    ]
    found = list(compare(now, before))
    assert [(entry.input_uri, entry.change, entry.size_bytes) for entry in found] == [
        ("file:new", "added", 3),
        ("file:edited", "changed", 5),
        ("file:same", "unchanged", 3),
        ("file:gone", "removed", 3),
    ]
    assert found[3].content_sha256 == before["file:gone"].content_sha256
    assert change_counts(Counter(entry.change for entry in found)) == {
        "num_added": 1,
        "num_changed": 1,
        "num_unchanged": 1,
        "num_removed": 1,
    }


def test_without_a_corpus_before_everything_is_added(source_input: MakeInput) -> None:
    assert [entry.change for entry in compare([source_input()], {})] == ["added"]


def test_an_inputs_key_is_all_that_parsers_see_and_not_where_it_lies(
    source_input: MakeInput,
) -> None:
    item = source_input("file:a", b"content", media_type="text/plain", metadata={"year": 2020})
    assert input_key(replace(item, locator=FileLocator(path="/moved"))) == input_key(item)
    others = [
        replace(item, uri="file:b"),
        replace(item, content_sha256="0" * 64),
        replace(item, media_type="text/html"),
        replace(item, title="A title"),
        replace(item, metadata={"year": 2021}),
    ]
    assert len({input_key(other) for other in [item, *others]}) == 6


@pytest.mark.parametrize("rows_per_group", [1, 2, 3, 100])
def test_rows_are_found_by_value_across_row_groups(tmp_path: Path, rows_per_group: int) -> None:
    path = tmp_path / "x.parquet"
    with ParquetWriter[Drop](path, DROP_SCHEMA, max_rows=rows_per_group) as writer:
        for number, uri in enumerate(["", "", "a", "b", "b", "b", "c"]):
            drop = Drop(source_uri=f"{uri}{number}", reason="", detail="", input_uri=uri)
            writer.write(drop)
    rows = GroupedRows(path, "input_uri")

    def found(value: str) -> list[str]:
        return [row["source_uri"] for row in rows.rows(value)]

    assert found("b") == ["b3", "b4", "b5"]
    assert found("a") == ["a2"]
    assert found("c") == ["c6"]
    assert found("") == ["0", "1"]
    assert found("missing") == []


def test_a_file_without_rows_holds_no_value(tmp_path: Path) -> None:
    with ParquetWriter[Drop](tmp_path / "x.parquet", DROP_SCHEMA):
        pass
    assert GroupedRows(tmp_path / "x.parquet", "input_uri").rows("a") == []
