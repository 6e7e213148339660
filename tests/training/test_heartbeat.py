"""Signs of life."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline_lib.training.heartbeat import Heartbeat, read_heartbeats


def test_each_rank_leaves_its_step_and_time(tmp_path: Path) -> None:
    before = time.time() - 1
    Heartbeat(tmp_path, 1).beat(0)
    Heartbeat(tmp_path, 0).beat(12)
    beats = read_heartbeats(tmp_path)
    assert [(rank, beat.step) for rank, beat in beats.items()] == [(0, 12), (1, 0)]
    assert all(beat.at > before for beat in beats.values())


def test_of_many_signs_in_a_second_one_is_written(tmp_path: Path) -> None:
    now = [0.0]
    heart = Heartbeat(tmp_path, 0, clock=lambda: now[0])
    heart.beat(1)
    first = (tmp_path / "heartbeat-0").stat().st_mtime_ns
    now[0] = 0.9
    heart.beat(1)
    assert (tmp_path / "heartbeat-0").stat().st_mtime_ns == first
    now[0] = 1.0
    heart.beat(1)
    assert (tmp_path / "heartbeat-0").stat().st_mtime_ns > first


def test_a_new_step_is_told_at_once(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path, 0, clock=lambda: 0.0)
    heart.beat(1)
    heart.beat(2)
    assert read_heartbeats(tmp_path)[0].step == 2
