"""The other machines of a run: who is there, who has failed, who is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import ConfigError, StoreUnavailableError
from pipeline_lib.training import presence
from pipeline_lib.training.checkpoints import complete_steps, upload_checkpoint, upload_part
from pipeline_lib.training.diagnosis import NodeReport
from pipeline_lib.training.presence import NodesLostError, OtherNodes, Presence

from .scripted_plans import wait_for

ALIVE = "training/run/nodes/1/alive"


class Clock:
    """Shows what it is set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def others_at(partial: PartialWork, clock: Clock) -> OtherNodes:
    return OtherNodes(partial, "run", clock)


def test_a_machine_is_lost_when_its_sign_has_not_changed_for_a_minute(
    partial: PartialWork,
) -> None:
    clock = Clock()
    others = others_at(partial, clock)
    others.check()  # nobody has joined: nobody is missed
    for second in (100, 150, 200):
        clock.now = second
        partial.put(ALIVE, str(second).encode())
        others.check()
    clock.now = 259
    others.check()
    assert not others.is_gone(1)
    clock.now = 261
    with pytest.raises(NodesLostError):
        others.check()
    assert others.is_gone(1)
    assert others.lost == [1]
    assert others.reports == []


def test_when_ranks_have_failed_here_a_few_seconds_of_silence_say_enough(
    partial: PartialWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(
        "pipeline_lib.training.presence.time.sleep",
        lambda seconds: setattr(clock, "now", clock.now + seconds),
    )
    others = others_at(partial, clock)
    others.settle()
    assert clock.now == 0  # nobody to wait for
    partial.put(ALIVE, b"1")
    clock.now = 5
    others.settle()
    assert 12 < clock.now - 5 < 15
    assert others.lost == [1]


def test_a_store_that_does_not_answer_makes_nobody_silent(
    partial: PartialWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    others = others_at(partial, clock)
    partial.put(ALIVE, b"1")
    others.check()

    def fail(_prefix: str) -> dict[str, str]:
        raise StoreUnavailableError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(partial, "tags", fail)
        clock.now = 100
        others.check()
    clock.now = 150
    others.check()
    assert others.lost == []


def test_one_that_has_failed_says_of_what_and_the_ranks_here_may_end_by_themselves(
    partial: PartialWork,
) -> None:
    clock = Clock()
    others = others_at(partial, clock)
    with pytest.raises(ConfigError), Presence(partial, "run", 1):
        raise ConfigError("this machine has no GPU", hint="Buy one.")
    others.check()
    told = NodeReport(node=1, message="this machine has no GPU", hint="Buy one.")
    assert others.reports == [told]
    assert others.is_gone(1)
    clock.now = 4
    others.check()
    clock.now = 6
    with pytest.raises(NodesLostError):
        others.check()
    assert others.lost == []


def test_one_that_ended_well_is_not_missed(
    partial: PartialWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "_BEAT_SECONDS", 0.02)
    clock = Clock()
    others = others_at(partial, clock)
    with Presence(partial, "run", 1):
        wait_for(lambda: partial.get(ALIVE) not in (None, b"0"), 10)
        others.check()
        assert not others.is_gone(1)
    clock.now = 100
    others.check()
    assert others.is_gone(1)
    assert others.lost == []


def test_a_process_that_ended_without_a_word_is_lost_at_once(partial: PartialWork) -> None:
    others = others_at(partial, Clock())
    assert not others.has_ended(1)  # it had not joined
    partial.put("training/run/nodes/2/alive", b"1")
    assert others.has_ended(2)
    with pytest.raises(NodesLostError):
        others.check()
    assert others.lost == [2]


def test_a_checkpoint_whose_other_machine_is_gone_stays_incomplete_and_holds_nobody_up(
    partial: PartialWork, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("state")
    upload_checkpoint(partial, tmp_path, 2, num_nodes=2, is_gone=lambda node: node == 1)
    assert complete_steps(partial) == []
    upload_part(partial, tmp_path, 2, node=1)  # its last act
    upload_checkpoint(partial, tmp_path, 2, num_nodes=2, is_gone=lambda node: node == 1)
    assert complete_steps(partial) == [2]
