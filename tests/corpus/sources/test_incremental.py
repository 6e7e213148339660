"""A second scan reads only what may have changed, and finds the same."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.corpus.sources.base import SourceScan

Scan = Callable[..., SourceScan]


class Opened:
    """Which files were opened, by name; counts nothing while it is off."""

    def __init__(self) -> None:
        self.names: list[str] | None = None

    def during(self, run: Callable[[], SourceScan], folder: Path) -> tuple[SourceScan, list[str]]:
        self.names = []
        try:
            result = run()
            return result, sorted({Path(n).name for n in self.names if n.startswith(str(folder))})
        finally:
            self.names = None


_OPENED = Opened()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _OPENED.names is not None:
        _OPENED.names.append(os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else "")


@pytest.fixture(scope="module")
def _audited() -> None:
    sys.addaudithook(_audit)  # hooks cannot be removed, so there is one and it can be off


@pytest.fixture
def opened(_audited: None) -> Iterator[Opened]:
    return _OPENED


def write_old(path: Path, content: str) -> Path:
    """A file that was last written long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    past = time.time() - 1000
    os.utime(path, (past, past))
    return path


def test_only_files_whose_size_or_times_changed_are_opened(
    scan: Scan, opened: Opened, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    for name in ("a.txt", "b.txt", "c.jsonl"):
        write_old(docs / name, f'{{"text": "{name}"}}\n')
    first, names = opened.during(lambda: scan(docs), docs)
    assert (first.num_read, names) == (3, ["a.txt", "b.txt", "c.jsonl"])

    second, names = opened.during(lambda: scan(docs), docs)
    assert (second.num_read, names) == (0, [])
    assert (second.inputs, second.drops, second.digest) == (first.inputs, (), first.digest)

    write_old(docs / "b.txt", "changed")
    write_old(docs / "d.txt", "new")
    third, names = opened.during(lambda: scan(docs), docs)
    assert (third.num_read, names) == (2, ["b.txt", "d.txt"])
    assert third.digest != first.digest


def test_an_edit_that_restores_size_and_time_is_seen(scan: Scan, tmp_path: Path) -> None:
    path = write_old(tmp_path / "a.txt", "one")
    before, status = scan(path), path.stat()
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert scan(path).digest != before.digest


def test_a_file_written_just_now_is_read_again(scan: Scan, tmp_path: Path) -> None:
    """Within the resolution of the clock, a second edit could leave the time as it is."""
    path = tmp_path / "a.txt"
    path.write_text("one")
    assert scan(path).num_read == 1
    assert scan(path).num_read == 1


def test_refusals_are_remembered_too(scan: Scan, opened: Opened, tmp_path: Path) -> None:
    path = write_old(tmp_path / "docs" / "big.txt", "x" * 101)
    limits = {"max_file_bytes": 100}
    first = scan(path, limits=limits)
    second, names = opened.during(lambda: scan(path, limits=limits), tmp_path / "docs")
    assert second.drops == first.drops
    assert names == []


def test_other_limits_make_the_stamps_worthless(scan: Scan, tmp_path: Path) -> None:
    path = write_old(tmp_path / "a.txt", "x" * 101)
    assert scan(path, limits={"max_file_bytes": 100}).inputs == ()
    assert len(scan(path, limits={"max_file_bytes": 200}).inputs) == 1


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated"])
def test_without_its_stamps_a_scan_reads_everything_and_finds_the_same(
    scan: Scan, objects: ObjectStore, pipeline_name: str, tmp_path: Path, damage: str
) -> None:
    path = write_old(tmp_path / "a.txt", "one")
    stamps = f"_state/ingest/{pipeline_name}/stamps.jsonl.gz"
    first = scan(path)
    whole = objects.get_bytes(stamps)
    if damage == "missing":
        objects.delete([stamps])
    else:
        objects.put_bytes(stamps, b"garbage" if damage == "garbage" else whole[:-20])
    second = scan(path)
    assert (second.num_read, second.digest) == (1, first.digest)


def test_the_stamps_of_a_source_that_is_no_longer_named_go(scan: Scan, tmp_path: Path) -> None:
    kept, gone = write_old(tmp_path / "a.txt", "one"), write_old(tmp_path / "b.txt", "two")
    scan(kept, gone)
    scan(kept)
    assert scan(kept, gone).num_read == 1
