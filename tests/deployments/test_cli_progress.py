"""Progress in a terminal is a bar; elsewhere it is a few lines."""

from __future__ import annotations

import io
import re
import threading

import pytest
from rich.console import Console

from deployments.cli.console import duration
from deployments.cli.progress import RichProgress
from pipeline_lib.progress import phase


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _plain(clock: Clock) -> tuple[RichProgress, io.StringIO]:
    out = io.StringIO()
    return RichProgress(Console(file=out, width=120, force_terminal=False), clock=clock), out


def test_plain_output_is_a_line_at_start_every_ten_seconds_and_at_the_end(clock: Clock) -> None:
    progress, out = _plain(clock)
    with phase(progress, "Embedding", 40, "chunks"):
        for _ in range(40):
            clock.now += 1
            progress.advance()
    assert out.getvalue().splitlines() == [
        "  Embedding: 40 chunks …",
        "  Embedding: 10/40 chunks, 10 s, about 30 s left",
        "  Embedding: 20/40 chunks, 20 s, about 20 s left",
        "  Embedding: 30/40 chunks, 30 s, about 10 s left",
        "  Embedding: 40/40 chunks, 40 s",
        "✓ Embedding: 40 chunks in 40 s",
    ]


def test_a_note_joins_the_next_line(clock: Clock) -> None:
    progress, out = _plain(clock)
    progress.start("Training", 100, "steps")
    clock.now += 12
    progress.note("loss 1.25")
    assert out.getvalue().splitlines()[-1] == "  Training: 0/100 steps, 12 s, loss 1.25"


def test_a_phase_that_raises_shows_how_far_it_came(clock: Clock) -> None:
    progress, out = _plain(clock)

    def work() -> None:
        with phase(progress, "Reading", 3, "files"):
            progress.advance()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        work()
    assert out.getvalue().splitlines()[-1] == "· Reading: 1/3 files in 0 s"


def test_an_unknown_total_is_counted(clock: Clock) -> None:
    progress, out = _plain(clock)
    with phase(progress, "Crawling", None, "pages"):
        progress.advance(1234)
    assert out.getvalue().splitlines() == ["  Crawling: …", "✓ Crawling: 1,234 pages in 0 s"]


def test_a_phase_that_counts_nothing_shows_its_time_only(clock: Clock) -> None:
    progress, out = _plain(clock)
    with phase(progress, "Reporting", None):
        clock.now += 3
    assert out.getvalue().splitlines()[-1] == "✓ Reporting in 3 s"


def test_phases_follow_each_other(clock: Clock) -> None:
    progress, out = _plain(clock)
    progress.start("One", 1)
    progress.advance()
    progress.start("Two", 1)
    assert out.getvalue().splitlines() == [
        "  One: 1 items …",
        "✓ One: 1 items in 0 s",
        "  Two: 1 items …",
    ]


def test_a_terminal_shows_counts_and_time_left_and_keeps_one_line() -> None:
    out = io.StringIO()
    progress = RichProgress(Console(file=out, width=120, force_terminal=True, color_system=None))
    with phase(progress, "Embedding [x]", 79, "chunks"):
        progress.advance(40)
        progress.note("[batch 3]")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "Embedding [x]" in text
    assert "40/79 chunks" in text
    assert "[batch 3]" in text
    assert text.rstrip().splitlines()[-1].startswith("· Embedding [x]: 40/79 chunks in")


def test_calls_from_threads_are_all_counted(clock: Clock) -> None:
    progress, out = _plain(clock)
    progress.start("Work", 4000)
    threads = [
        threading.Thread(target=lambda: [progress.advance() for _ in range(1000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.finish()
    assert out.getvalue().splitlines()[-1].startswith("✓ Work: 4,000 items")


def test_transient_progress_leaves_nothing_in_a_log() -> None:
    out = io.StringIO()
    progress = RichProgress(Console(file=out, force_terminal=False), is_transient=True)
    with phase(progress, "Answering", 1, "questions"):
        progress.advance()
    assert out.getvalue() == ""


def test_calls_outside_a_phase_are_ignored(clock: Clock) -> None:
    progress, out = _plain(clock)
    progress.advance()
    progress.note("nobody listens")
    progress.finish()
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (3720, "1 h 02 min")],
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert duration(seconds) == text
