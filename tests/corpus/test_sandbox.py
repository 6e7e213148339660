"""Whatever a child does, its item becomes an outcome and the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_lib.corpus.sandbox import (
    Crashed,
    Done,
    Outcome,
    OutOfMemory,
    SandboxPool,
    TimedOut,
)
from pipeline_lib.errors import RaftlineError

TARGET = """
import ctypes, os, signal, subprocess, sys, time

GROWN = []

def factory(argument):
    def handle(payload):
        command, _, rest = payload.partition(b" ")
        if command == b"hang":
            time.sleep(60)
        elif command == b"spin":
            while True: pass
        elif command == b"exit":
            os._exit(int(rest))
        elif command == b"segfault":
            ctypes.string_at(0)
        elif command == b"kernel-kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif command == b"allocate":
            GROWN.append(bytearray(int(rest)))
        elif command == b"abort-for-memory":
            print("terminate called: std::bad_alloc", file=sys.stderr, flush=True)
            os.abort()
        elif command == b"raise":
            raise ValueError("no such page")
        elif command == b"noise":
            os.write(1, b"x" * 1_000_000); os.write(2, b"y" * 1_000_000); print("more")
        elif command == b"repeat":
            return b"z" * int(rest)
        elif command == b"length":
            return str(len(rest)).encode()
        elif command == b"pid":
            return str(os.getpid()).encode()
        elif command == b"orphan":
            child = subprocess.Popen(["sleep", "60"])
            return str(child.pid).encode()
        elif command == b"slow":
            time.sleep(float(rest))
        elif command == b"surrogate":
            raise ValueError("\\udc80")
        return argument + payload
    return handle

def broken(argument):
    raise RuntimeError("no tokenizer here")
"""
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits that Linux enforces")


@pytest.fixture(autouse=True)
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sandbox_target.py").write_text(TARGET)
    monkeypatch.syspath_prepend(str(tmp_path))


def make_pool(
    num_workers: int = 2, max_seconds: float = 30, factory: str = "factory"
) -> SandboxPool:
    return SandboxPool(
        f"sandbox_target:{factory}",
        b">",
        num_workers=num_workers,
        max_seconds=max_seconds,
        max_memory_bytes=300_000_000,
    )


def run(pool: SandboxPool, *payloads: bytes) -> list[Outcome]:
    with pool:
        outcomes = list(pool.map(enumerate(payloads)))
    assert [key for key, _ in outcomes] == list(range(len(payloads)))
    return [outcome for _, outcome in outcomes]


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie nobody has waited for."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until_ended(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        (b"exit 3", Crashed("the process ended with status 3")),
        (b"exit 0", Crashed("the process ended with status 0")),
        (b"segfault", Crashed("the process was ended by SIGSEGV")),
        (b"raise", Crashed("ValueError: no such page")),
        (b"surrogate", Crashed("ValueError: \\udc80")),
        (b"kernel-kill", OutOfMemory()),
        (b"abort-for-memory", OutOfMemory()),
        pytest.param(b"allocate 1000000000", OutOfMemory(), marks=linux_only),
        (b"noise", Done(b">noise")),
        (b"", Done(b">")),
    ],
)
def test_an_item_becomes_an_outcome_and_the_next_one_goes_on(
    payload: bytes, outcome: Outcome
) -> None:
    assert run(make_pool(num_workers=1), b"a", payload, b"b") == [Done(b">a"), outcome, Done(b">b")]


@pytest.mark.parametrize("payload", [b"hang", b"spin"])
def test_an_item_that_hangs_is_stopped_at_its_own_limit(payload: bytes) -> None:
    start = time.monotonic()
    pool = make_pool(num_workers=1, max_seconds=1.5)
    outcomes = run(pool, b"slow 0.8", b"slow 0.8", payload, b"b")
    assert outcomes == [Done(b">slow 0.8"), Done(b">slow 0.8"), TimedOut(1.5), Done(b">b")]
    assert time.monotonic() - start < 20


def test_results_come_in_input_order() -> None:
    payloads = [b"slow 0.2", *(b"%d" % number for number in range(50))]
    assert run(make_pool(num_workers=3), *payloads) == [Done(b">" + p) for p in payloads]


def test_large_payloads_and_results_pass_whole() -> None:
    outcomes = run(make_pool(), b"length " + b"a" * 20_000_000, b"repeat 20000000")
    assert outcomes == [Done(b"20000000"), Done(b"z" * 20_000_000)]


def test_reading_ahead_is_bounded() -> None:
    taken = []

    def payloads() -> Iterator[tuple[int, bytes]]:
        for number in range(100):
            taken.append(number)
            yield number, b"x"

    with make_pool(num_workers=2) as pool:
        results = pool.map(payloads())
        next(results)
        assert len(taken) <= 8
        assert sum(1 for _ in results) == 99


@linux_only
def test_each_item_has_the_whole_memory_limit_to_itself() -> None:
    """What earlier items leaked is not held against the next one: such a child is replaced."""
    payloads = [b"allocate 100000000"] * 6
    assert run(make_pool(num_workers=1), *payloads) == [Done(b">" + p) for p in payloads]


def test_healthy_children_are_kept() -> None:
    pids = {outcome.data for outcome in run(make_pool(num_workers=1), *[b"pid"] * 20)}  # type: ignore[union-attr]
    assert len(pids) == 1


def test_overhead_is_below_a_millisecond_per_item() -> None:
    with make_pool(num_workers=1) as pool:
        list(pool.map([(0, b"warm up")]))
        start = time.perf_counter()
        assert sum(1 for _ in pool.map((n, b"x") for n in range(1000))) == 1000
        assert time.perf_counter() - start < 3  # usually 0.15; the machine may be busy


def test_leaving_the_pool_ends_children_that_work() -> None:
    start = time.monotonic()
    with make_pool(num_workers=2) as pool:
        results = pool.map([(0, b"pid"), (1, b"hang"), (2, b"hang"), (3, b"hang")])
        _, outcome = next(results)
        assert isinstance(outcome, Done)
        results.close()
    assert time.monotonic() - start < 20
    assert not is_running(int(outcome.data))


def test_what_a_child_started_ends_with_it() -> None:
    (outcome,) = run(make_pool(num_workers=1), b"orphan")
    assert isinstance(outcome, Done)
    assert wait_until_ended(int(outcome.data))


def test_a_target_that_cannot_start_is_an_error_that_says_why() -> None:
    with pytest.raises(RaftlineError, match="no tokenizer here"):
        run(make_pool(factory="broken"), b"a")
    with pytest.raises(RaftlineError, match="missing_factory"):
        run(make_pool(factory="missing_factory"), b"a")


@linux_only
def test_no_child_survives_the_parent(tmp_path: Path) -> None:
    script = """
import sys
from pipeline_lib.corpus.sandbox import SandboxPool
pool = SandboxPool("sandbox_target:factory", b">", num_workers=2, max_seconds=60,
                   max_memory_bytes=300_000_000)
for _, outcome in pool.map([(0, b"pid"), (1, b"pid"), *((n, b"spin") for n in range(8))]):
    print(outcome.data.decode(), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    ) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(is_running, pids))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert all(map(wait_until_ended, pids))
