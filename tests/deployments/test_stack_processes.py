"""Processes are found again, never mistaken, and ended with everything below them."""

from __future__ import annotations

import os
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from deployments.stack.processes import (
    MARK_VARIABLE,
    ProcessRecord,
    end,
    find,
    log_tail,
    mark,
    marked,
    spawn,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "


def _spawn(command: list[str], tmp_path: Path, own_mark: str = "") -> ProcessRecord:
    environment = {**os.environ, MARK_VARIABLE: own_mark}
    record = spawn(command, environment=environment, log_path=tmp_path / "log", cwd=tmp_path)
    process = psutil.Process(record.pid)
    # The kernel shows arguments and environment a moment after the program has replaced ours.
    while process.status() != psutil.STATUS_ZOMBIE and not process.cmdline():
        time.sleep(0.001)
    return record


def _wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while not (path.is_file() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{text!r} never came into {path}"
        time.sleep(0.02)


@pytest.fixture
def own_mark(tmp_path: Path) -> str:
    return mark(tmp_path, f"test-{uuid.uuid4().hex}")


def test_a_spawned_process_leads_a_session_of_its_own(tmp_path: Path, own_mark: str) -> None:
    record = _spawn(SLEEP, tmp_path, own_mark)
    assert os.getsid(record.pid) == record.pid
    assert find(record) is not None
    end([record], [own_mark], grace_seconds=5)
    assert find(record) is None


def test_a_stale_record_names_nothing() -> None:
    assert find(ProcessRecord(pid=2**22 - 1, created=1.0)) is None
    assert find(None) is None


def test_a_recycled_pid_is_not_taken_for_ours_and_not_ended(tmp_path: Path, own_mark: str) -> None:
    stranger = _spawn(SLEEP, tmp_path, own_mark)
    recycled = ProcessRecord(pid=stranger.pid, created=stranger.created - 3600)
    assert find(recycled) is None
    assert end([recycled], [], grace_seconds=1) == 0
    assert find(stranger) is not None
    end([stranger], [], grace_seconds=5)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    record = _spawn([sys.executable, "-c", STUBBORN + "time.sleep(60)"], tmp_path)
    _wait_for(tmp_path / "log", "up")
    started = time.monotonic()
    end([record], [], grace_seconds=0.5)
    assert find(record) is None
    assert 0.5 <= time.monotonic() - started < 5


def test_grandchildren_in_sessions_of_their_own_end_too(tmp_path: Path, own_mark: str) -> None:
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True)\n"
        "print('child', child.pid, flush=True); time.sleep(60)"
    )
    record = _spawn([sys.executable, "-c", script], tmp_path, own_mark)
    _wait_for(tmp_path / "log", "child")
    grandchild = psutil.Process(int((tmp_path / "log").read_text().split()[1]))
    end([record], [], grace_seconds=5)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_a_mark_finds_descendants_whose_parent_is_gone(tmp_path: Path, own_mark: str) -> None:
    script = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    record = _spawn([sys.executable, "-c", script], tmp_path, own_mark)
    psutil.Process(record.pid).wait(20)
    (orphan,) = marked([own_mark])
    assert orphan.pid != record.pid
    assert end([record], [own_mark], grace_seconds=5) == 1
    assert marked([own_mark]) == []


def test_a_mark_can_be_narrowed_to_one_command(tmp_path: Path, own_mark: str) -> None:
    record = _spawn(SLEEP, tmp_path, own_mark)
    assert [each.pid for each in marked([own_mark], SLEEP)] == [record.pid]
    assert marked([own_mark], [sys.executable, "-c", "pass"]) == []
    end([record], [own_mark], grace_seconds=5)


def test_another_stacks_processes_are_left_alone(tmp_path: Path, own_mark: str) -> None:
    record = _spawn(SLEEP, tmp_path, own_mark)
    assert end([], [own_mark + "-other"], grace_seconds=1) == 0
    assert find(record) is not None
    end([record], [], grace_seconds=5)


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == "  (no log)"
    log.write_text("\n".join(f"line {n}" for n in range(100)))
    assert log_tail(log, 2) == "  line 98\n  line 99"


def test_a_large_log_is_set_aside_when_its_component_starts_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 10_000_001)
    record = _spawn([sys.executable, "-c", "print('fresh')"], tmp_path)
    psutil.Process(record.pid).wait(20)
    assert log.read_text() == "fresh\n"
    assert (tmp_path / "log.1").stat().st_size == 10_000_001
