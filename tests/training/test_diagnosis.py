"""From what ranks leave behind to one error; ranks that do as scripted instead of training."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import (
    ConfigError,
    HungTrainingError,
    NonFiniteLossError,
    PreemptedError,
    TrainingError,
)
from pipeline_lib.training.diagnosis import (
    ENDINGS_FILE,
    Ending,
    NodeReport,
    RankEnding,
    RankError,
    record_error,
)
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.plan import LOG_FILE, PREEMPTED_EXIT, append_event
from pipeline_lib.training.watchdog import Watchdog, top_frames

from .scripted_plans import ScriptedPlan, processes_of, train


def test_one_rank_runs_without_torchrun_and_with_what_torchrun_would_tell_it(
    scripted: ScriptedPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "7")  # of a launcher around us, say
    plan = scripted(["event:start", "show:WORLD_SIZE"])
    assert [event["event"] for event in train(plan)] == ["start"]
    assert (plan.run_folder / "shown-0").read_text() == "1"
    assert "torch" not in (plan.run_folder / LOG_FILE).read_text()


def test_an_error_of_ours_reaches_the_caller_as_it_was_raised(scripted: ScriptedPlan) -> None:
    with pytest.raises(NonFiniteLossError, match="nan at step 3") as caught:
        train(scripted(["diverge"]))
    assert caught.value.hint == "Lower the learning_rate."


def test_another_exception_is_named_with_the_end_of_the_log(scripted: ScriptedPlan) -> None:
    with pytest.raises(TrainingError) as caught:
        train(scripted(["say:loading", "fail:shapes differ"]))
    assert "Rank 0 failed with RuntimeError: shapes differ" in caught.value.message
    assert "loading" in caught.value.message


def test_a_lack_of_memory_comes_with_what_takes_less(scripted: ScriptedPlan) -> None:
    with pytest.raises(TrainingError) as caught:
        train(scripted(["fail:CUDA out of memory. Tried to allocate 2 GiB"]))
    assert "micro_batch_size" in str(caught.value)


def test_a_full_disk_is_named_with_its_folder_and_what_is_free(scripted: ScriptedPlan) -> None:
    plan = scripted(["fill_disk"])
    with pytest.raises(TrainingError) as caught:
        train(plan)
    assert f"The disk of {plan.run_folder} is full (" in caught.value.message
    assert "bytes are free" in caught.value.message
    assert "RAFTLINE_HOME" in str(caught.value)


def test_a_rank_ended_by_a_signal_is_named_with_it(scripted: ScriptedPlan) -> None:
    with pytest.raises(TrainingError) as caught:
        train(scripted(["die:9"]))
    assert "signal 9 (SIGKILL)" in caught.value.message
    assert "memory" in str(caught.value.hint)
    with pytest.raises(TrainingError, match=r"signal 11 \(SIGSEGV\)"):
        train(scripted(["die:11"]))


@pytest.mark.slow
def test_of_several_ranks_under_torchrun_the_dead_one_is_named(scripted: ScriptedPlan) -> None:
    plan = scripted(["hang"], ["die:9"])
    with pytest.raises(TrainingError, match=r"Rank 1 \(process \d+\) was ended by signal 9"):
        train(plan)
    assert processes_of(plan) == []


def test_a_dead_rank_comes_before_the_exceptions_of_those_it_took_along(tmp_path: Path) -> None:
    record_error(tmp_path, 0, ConnectionError("connection closed by peer"))
    endings = [
        {"rank": 0, "pid": 10, "exit_code": 1},
        {"rank": 1, "pid": 11, "exit_code": -signal.SIGSEGV},
    ]
    (tmp_path / ENDINGS_FILE).write_text(json.dumps(endings))
    assert "Rank 1 (process 11)" in Ending(run_folder=tmp_path, returncode=1).diagnose().message
    endings[1]["exit_code"] = -signal.SIGTERM  # by which torchrun ended it
    (tmp_path / ENDINGS_FILE).write_text(json.dumps(endings))
    assert "ConnectionError" in Ending(run_folder=tmp_path, returncode=1).diagnose().message


def test_when_the_kernel_killed_meanwhile_memory_is_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_lib.training.diagnosis.oom_kills", lambda: 4)
    error = Ending(run_folder=tmp_path, returncode=-9, oom_kills_before=3).diagnose()
    assert "ran out of memory" in error.message
    error = Ending(run_folder=tmp_path, returncode=-9, oom_kills_before=4).diagnose()
    assert "ran out of memory" not in error.message


def test_of_several_exceptions_the_earliest_counts_from_whichever_machine(tmp_path: Path) -> None:
    record_error(tmp_path, 0, ConnectionError("connection closed by peer"))
    cause = RankError(rank=5, at=time.time() - 1, type="ValueError", message="bad row")
    report = NodeReport(node=1, message="a rank failed", errors=(cause,))
    error = Ending(run_folder=tmp_path, returncode=1, elsewhere=[report]).diagnose()
    assert error.message.startswith("Rank 5 failed with ValueError: bad row")
    late = cause.model_copy(update={"at": time.time() + 1})
    report = NodeReport(node=1, message="a rank failed", errors=(late,))
    error = Ending(run_folder=tmp_path, returncode=1, elsewhere=[report]).diagnose()
    assert error.message.startswith("Rank 0 failed with ConnectionError")


def test_what_killed_a_rank_elsewhere_or_a_machine_comes_before_lost_connections(
    tmp_path: Path,
) -> None:
    """NCCL ends a rank whose peers are gone with SIGABRT, and writes no exception down."""
    aborted = {"rank": 0, "pid": 10, "exit_code": -signal.SIGABRT}
    (tmp_path / ENDINGS_FILE).write_text(json.dumps([aborted]))
    record_error(tmp_path, 0, ConnectionError("connection closed by peer"))
    ending = RankEnding(rank=5, pid=12, exit_code=-signal.SIGKILL)
    report = NodeReport(node=1, message="Rank 5 was killed", hint="Buy memory.", endings=(ending,))
    error = Ending(run_folder=tmp_path, returncode=1, elsewhere=[report]).diagnose()
    assert (error.message, error.hint) == ("Node 1: Rank 5 was killed", "Buy memory.")
    error = Ending(run_folder=tmp_path, returncode=1, lost=[1, 3]).diagnose()
    assert error.message.startswith("No sign of life comes from node 1, 3 any more")


def test_a_machine_that_had_not_got_as_far_as_ranks_is_told_of_in_its_own_words(
    tmp_path: Path,
) -> None:
    report = NodeReport.of(2, ConfigError("this machine trains on 'cpu'", hint="Buy a GPU."))
    error = Ending(run_folder=tmp_path, returncode=0, elsewhere=[report]).diagnose()
    assert error.message == "Node 2: this machine trains on 'cpu'"
    told = NodeReport.of(2, PreemptedError("told to end"))
    assert isinstance(
        Ending(run_folder=tmp_path, returncode=0, elsewhere=[told]).diagnose(), PreemptedError
    )


def test_ranks_that_saved_because_they_were_told_to_end_were_preempted(
    scripted: ScriptedPlan,
) -> None:
    with pytest.raises(PreemptedError) as caught:
        train(scripted([f"exit:{PREEMPTED_EXIT}"]))
    assert caught.value.is_transient


def test_whoever_ends_the_wait_ranks_get_their_time_to_save_and_their_checkpoint_is_heard_of(
    scripted: ScriptedPlan,
) -> None:
    class Cancelled(BaseException):
        pass

    heard: list[str] = []

    def cancel(event: dict[str, Any]) -> None:
        heard.append(event["event"])
        if event["event"] == "step":
            raise Cancelled

    plan = scripted(["save_when_told", "event:step", "hang"], grace_seconds=10)
    with pytest.raises(Cancelled):
        run_training(plan, cancel)
    assert heard == ["step", "checkpoint"]


def test_ranks_that_do_not_listen_are_killed_when_their_time_is_over(
    scripted: ScriptedPlan,
) -> None:
    plan = scripted(["ignore_when_told", "hang"], timeout_seconds=1, grace_seconds=1)
    started = time.monotonic()
    with pytest.raises(TrainingError, match="longer than 1 s"):
        train(plan)
    assert time.monotonic() - started < 8


def test_sigterm_to_the_owner_is_passed_on_and_leaves_its_handler_as_it_was(
    scripted: ScriptedPlan,
) -> None:
    heard: list[str] = []

    def tell(event: dict[str, Any]) -> None:
        heard.append(event["event"])
        if event["event"] == "step":
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(PreemptedError, match="owns the training"):
        run_training(scripted(["save_when_told", "event:step", "hang"]), tell)
    assert heard == ["step", "checkpoint"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_silence_ends_the_run_with_the_step_and_the_stack_of_every_rank(
    scripted: ScriptedPlan,
) -> None:
    plan = scripted(["beat:4", "hang"], hang_seconds=6, grace_seconds=60)
    started = time.monotonic()
    with pytest.raises(HungTrainingError) as caught:
        train(plan)
    assert "rank 0: after step 4, in\n    hang (scripted_rank.py:" in caught.value.message
    assert time.monotonic() - started < 40  # no grace: who hangs saves nothing


def test_beats_and_events_are_signs_of_life(scripted: ScriptedPlan) -> None:
    plan = scripted([], hang_seconds=10)
    now = 0.0
    watchdog = Watchdog(plan, ranks=dict, clock=lambda: now, stack_seconds=0)
    now = 9.0
    append_event(plan.events_path, "step")
    watchdog.check()
    now = 18.0
    (plan.run_folder / "heartbeat-0").write_text("000000000003\n")
    watchdog.check()
    now = 27.0
    watchdog.check()
    now = 29.0
    with pytest.raises(HungTrainingError, match="rank 0: after step 3, not running"):
        watchdog.check()


def test_nodes_that_never_met_are_told_from_ranks_that_hang(scripted: ScriptedPlan) -> None:
    plan = scripted([], [], hang_seconds=10, num_nodes=2, address="10.0.0.5:29500")
    now = 0.0
    watchdog = Watchdog(plan, ranks=dict, clock=lambda: now, stack_seconds=0)
    now = 11.0
    with pytest.raises(HungTrainingError, match=r"2 nodes have not all met at 10\.0\.0\.5:29500"):
        watchdog.check()


def test_the_frames_shown_are_those_of_the_thread_that_took_the_signal() -> None:
    stacks = """Thread 0x1 (most recent call first):
  File "/lib/threading.py", line 1 in wait

Current thread 0x2 (most recent call first):
  File "/lib/dist.py", line 20 in all_reduce
  File "/lib/train.py", line 30 in step
"""
    assert top_frames(stacks) == ["all_reduce (dist.py:20)", "step (train.py:30)"]
    assert top_frames("") == []
