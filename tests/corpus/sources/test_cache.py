"""Local copies are written whole, once, and the least recently used go first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib.corpus.sources.cache import LocalCache


def writes(size: int) -> Callable[[Path], None]:
    def fill(target: Path) -> None:
        target.write_bytes(b"x" * size)

    return fill


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_an_entry_is_filled_once(tmp_path: Path) -> None:
    cache, calls = LocalCache(tmp_path), []

    def fill(target: Path) -> None:
        calls.append(target)
        target.write_bytes(b"x")

    assert cache.file("a", fill) == cache.file("a", fill) == tmp_path / "a"
    assert len(calls) == 1


def test_an_entry_whose_filling_fails_is_not_there(tmp_path: Path) -> None:
    def fill(target: Path) -> None:
        target.write_bytes(b"half")
        raise EOFError

    with pytest.raises(EOFError):
        LocalCache(tmp_path).file("a", fill)
    assert names(tmp_path) == []


def test_the_least_recently_used_entries_make_room(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, max_bytes=100)
    for age, name in enumerate(["a", "b"]):
        cache.file(name, writes(40))
        past = time.time() - 1000 + age
        os.utime(tmp_path / name, (past, past))
    cache.file("a", writes(40))  # used again
    cache.file("c", writes(40))
    assert names(tmp_path) == ["a", "c"]
    cache.file("too-large", writes(200))
    assert names(tmp_path) == ["too-large"]


def test_an_entry_that_is_open_stays_readable_when_it_goes(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, max_bytes=100)
    with cache.file("a", writes(60)).open("rb") as stream:
        cache.file("b", writes(60))
        assert names(tmp_path) == ["b"]
        assert len(stream.read()) == 60


def test_what_a_killed_process_left_over_goes_after_a_day(tmp_path: Path) -> None:
    for name, age_seconds in (("old.part", 2 * 24 * 3600), ("new.part", 60)):
        (tmp_path / name).write_bytes(b"x")
        past = time.time() - age_seconds
        os.utime(tmp_path / name, (past, past))
    LocalCache(tmp_path).file("a", writes(1))
    assert names(tmp_path) == ["a", "new.part"]


def test_a_finished_file_is_adopted_or_deleted_when_its_like_is_there(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path)
    for _ in range(2):
        spooled = cache.spool([b"one ", b"two"])
        assert cache.adopt(spooled.path, spooled.sha256).read_bytes() == b"one two"
        assert not spooled.path.exists()
    assert names(tmp_path) == [spooled.sha256]
