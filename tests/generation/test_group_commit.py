"""Writes in the background, one at a time, each with all that waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping

import pytest

from pipeline_lib.generation.group_commit import GroupCommit


class SlowDisk:
    """Writes when the test lets it."""

    def __init__(self) -> None:
        self.groups: list[dict[str, bytes]] = []
        self.begun = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.is_full = False

    def allow(self, num_writes: int) -> None:
        for _ in range(num_writes):
            self.allowed.release()

    def write(self, items: Mapping[str, bytes]) -> None:
        self.begun.release()
        assert self.allowed.acquire(timeout=10)
        if self.is_full:
            raise OSError("no room")
        self.groups.append(dict(items))


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
def commits(disk: SlowDisk) -> Iterator[GroupCommit]:
    commits = GroupCommit(disk.write, name="words")
    yield commits
    disk.is_full = False
    disk.allow(100)
    commits.close()


def test_what_comes_in_during_a_write_goes_together_with_the_next(
    disk: SlowDisk, commits: GroupCommit
) -> None:
    commits.add({"a": b"1"})
    assert disk.begun.acquire(timeout=10)
    commits.add({"b": b"2"})
    commits.add({"c": b"3", "d": b"4"})
    disk.allow(2)
    commits.flush()
    assert disk.groups == [{"a": b"1"}, {"b": b"2", "c": b"3", "d": b"4"}]


def test_what_is_not_durable_yet_can_be_read(disk: SlowDisk, commits: GroupCommit) -> None:
    commits.add({"a": b"1"})
    assert disk.begun.acquire(timeout=10)
    commits.add({"b": b"2"})
    assert commits.pending(["a", "b", "c"]) == {"a": b"1", "b": b"2"}
    disk.allow(2)
    commits.flush()
    assert commits.pending(["a", "b"]) == {}


def test_a_failure_reaches_the_caller_and_nothing_is_lost(
    disk: SlowDisk, commits: GroupCommit
) -> None:
    disk.is_full = True
    disk.allow(10)
    commits.add({"a": b"1"})
    with pytest.raises(OSError, match="no room"):
        commits.flush()
    assert commits.pending(["a"]) == {"a": b"1"}
    disk.is_full = False
    commits.flush()
    assert disk.groups == [{"a": b"1"}]


def test_after_a_failure_the_next_addition_raises_it(disk: SlowDisk, commits: GroupCommit) -> None:
    disk.is_full = True
    disk.allow(10)
    commits.add({"a": b"1"})
    assert disk.begun.acquire(timeout=10)
    while commits.pending(["a"]) and not commits._failure:
        time.sleep(0.001)
    with pytest.raises(OSError, match="no room"):
        commits.add({"b": b"2"})
    disk.is_full = False
    commits.flush()
    assert {key for group in disk.groups for key in group} == {"a", "b"}


def test_a_disk_that_cannot_keep_up_holds_the_caller_back(
    disk: SlowDisk, commits: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_lib.generation.group_commit._MOST_WAITING_BYTES", 10)
    commits.add({"a": b"1"})
    assert disk.begun.acquire(timeout=10)
    caller = threading.Thread(target=lambda: commits.add({"b": b"x" * 11}))
    caller.start()
    caller.join(0.2)
    assert caller.is_alive()
    disk.allow(2)
    caller.join(10)
    assert not caller.is_alive()


def test_closing_writes_the_rest_and_ends_the_thread(disk: SlowDisk) -> None:
    commits = GroupCommit(disk.write, name="a name of its own")
    commits.add({"a": b"1"})
    disk.allow(1)
    commits.close()
    commits.close()
    assert disk.groups == [{"a": b"1"}]
    assert "a name of its own" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ValueError, match="closed"):
        commits.add({"b": b"2"})


def test_closing_after_a_failure_raises_it_and_ends_the_thread(disk: SlowDisk) -> None:
    disk.is_full = True
    commits = GroupCommit(disk.write, name="another name")
    commits.add({"a": b"1"})
    disk.allow(10)
    with pytest.raises(OSError, match="no room"):
        commits.close()
    assert "another name" not in {thread.name for thread in threading.enumerate()}
