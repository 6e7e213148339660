"""Progress reaches the UI throttled, never disturbs the work, and is shared with a listener."""

from __future__ import annotations

import logging
import threading
import time
from itertools import pairwise

import httpx
import pytest

from pipeline_lib.progress import phase
from tasks.progress import (
    NOTE_INTERVAL_SECONDS,
    Fanout,
    PrefectProgress,
    current_listener,
    format_seconds,
    use_progress,
)
from tests.recorder import Recorder

logger = logging.getLogger("test-progress")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_updates_are_at_least_the_interval_apart_and_the_last_state_always_arrives() -> None:
    sent: list[tuple[float, float, str]] = []

    def send(percent: float, description: str) -> None:
        sent.append((time.monotonic(), percent, description))

    with (
        PrefectProgress(send, logger, interval_seconds=0.15) as progress,
        phase(progress, "Embedding", 100, "chunks") as p,
    ):
        for _ in range(100):
            p.advance()
            time.sleep(0.005)
    *running, last = [moment for moment, _, _ in sent]
    assert 3 <= len(sent) <= 8
    assert all(b - a > 0.14 for a, b in pairwise(running))
    assert last - running[-1] < 0.5
    percents = [percent for _, percent, _ in sent]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert sent[-1][2].startswith("- Embedding: 100 chunks in 0.")


def test_a_phase_shows_how_far_it_is_how_long_still_and_its_note() -> None:
    sent: list[tuple[float, str]] = []
    clock = Clock()
    progress = PrefectProgress(
        lambda *state: sent.append(state), logger, interval_seconds=0, clock=clock
    )
    with progress:
        progress.start("Training", 40, "steps")
        clock.now += 60
        progress.advance(10)
        progress.note("loss 2.5")
        _until(lambda: sent and "loss" in sent[-1][1])
    assert (25.0, "- **Training: 10 of 40 steps, about 3 min left, loss 2.5**") in sent
    assert sent[-1] == (100.0, "- Training: 10 steps in 60 s, loss 2.5")


def test_an_unknown_total_gives_no_percentage_and_no_time_left() -> None:
    sent: list[tuple[float, str]] = []
    with PrefectProgress(lambda *state: sent.append(state), logger, interval_seconds=0) as progress:
        progress.start("Reading", None, "files")
        progress.advance(7)
        _until(lambda: sent and "7" in sent[-1][1])
    assert (0.0, "- **Reading: 7 files**") in sent


def test_finished_phases_stay_listed_below_the_running_one() -> None:
    sent: list[str] = []
    clock = Clock()
    progress = PrefectProgress(
        lambda _, description: sent.append(description), logger, interval_seconds=0, clock=clock
    )
    with progress:
        for number in range(12):
            progress.start(f"Phase {number}", 1)
        _until(lambda: sent and "Phase 11" in sent[-1])
        running = sent[-1].splitlines()
    assert running[0] == "- **Phase 11: 0 of 1 items**"
    assert running[-1] == "- Phase 1: 0 items in 0.0 s"  # at most ten of them


def test_a_server_that_fails_costs_one_warning_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts = 0

    def refuse(percent: float, description: str) -> None:
        nonlocal attempts
        attempts += 1
        raise httpx.ConnectError("connection refused")

    with (
        PrefectProgress(refuse, logger, interval_seconds=0.01) as progress,
        phase(progress, "Embedding", 20, "chunks") as p,
    ):
        for _ in range(20):
            p.advance()
            time.sleep(0.01)
    assert attempts > 3
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == ["Progress cannot be shown in the UI: connection refused"]


def test_a_server_that_hangs_does_not_hold_up_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.progress._FAREWELL_SECONDS", 0.2)
    release = threading.Event()
    started = time.monotonic()
    with (
        PrefectProgress(lambda *_: release.wait(30), logger) as progress,
        phase(progress, "Embedding", 1000) as p,
    ):
        for _ in range(1000):
            p.advance()
    assert time.monotonic() - started < 2
    release.set()


def test_notes_are_logged_rarely_and_phases_always(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with PrefectProgress(lambda *_: None, logger, clock=clock) as progress:
        progress.start("Training", 4, "steps")
        for number in range(4):
            progress.note(f"loss {number}")
            clock.now += NOTE_INTERVAL_SECONDS / 2
    assert [record.getMessage() for record in caplog.records] == [
        "Training: 4 steps",
        "Training: 0 of 4 steps, loss 0",
        "Training: 0 of 4 steps, loss 2",
        "Training: 0 steps in 60 s, loss 3",
    ]


def test_the_longer_a_phase_takes_the_rarer_are_its_notes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with PrefectProgress(lambda *_: None, logger, clock=clock) as progress:
        progress.start("Training", None, "steps")
        for _ in range(24 * 60 * 2):
            progress.note("loss 1.000")
            clock.now += NOTE_INTERVAL_SECONDS
    assert 50 < len(caplog.records) < 150  # of a day


def test_an_interrupted_block_still_says_how_far_it_came(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def interrupted() -> None:
        with PrefectProgress(lambda *_: None, logger, clock=Clock()) as progress:
            progress.start("Training", 40, "steps")
            progress.advance(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert caplog.records[-1].getMessage() == "Training: 3 steps in 0.0 s"


def test_a_listener_follows_only_inside_its_block() -> None:
    recorder = Recorder()
    assert current_listener() is None
    with use_progress(recorder):
        assert current_listener() is recorder
    assert current_listener() is None


def test_a_fanout_tells_everybody_in_order() -> None:
    first, second = Recorder(), Recorder()
    with phase(Fanout(first, second), "Reading", 2, "files") as p:
        p.advance(2)
        p.note("done")
    expected = [("start", "Reading", 2, "files"), ("advance", 2), ("note", "done"), ("finish",)]
    assert first.calls == second.calls == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (42.4, "42 s"),
        (89.9, "90 s"),
        (100, "2 min"),
        (3599, "60 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def _until(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)
