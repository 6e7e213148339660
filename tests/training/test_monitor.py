"""What becomes of the ranks' events in the process that owns them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import StoreUnavailableError
from pipeline_lib.training.monitor import TrainingMonitor
from pipeline_lib.training.plan import TrainingPlan
from tests.recorder import Recorder

from .conftest import PlanFactory, random_examples

START = {
    "event": "start",
    "num_rows": 24,
    "num_tokens_per_epoch": 1000,
    "num_loss_tokens_per_epoch": 300,
    "num_steps": 4,
    "num_trainable_parameters": 10,
    "num_parameters": 1000,
}
EVENTS_FILE = "tensorboard/events.out.tfevents.raftline"


def step(number: int, **values: Any) -> dict[str, Any]:
    event: dict[str, Any] = {
        "event": "step",
        "step": number,
        "epoch": number / 4,
        "loss": 2.0 / number,
        "learning_rate": 0.001,
        "grad_norm": 0.5,
        "seconds": 0.25,
        "rows": 8,
        "tokens": 4000,
        "tokens_per_second": 16000.0,
        "samples_per_second": 32.0,
        "mfu": None,
        "memory_bytes": 3 << 30,
        "task_losses": {},
        "metrics": {},
    }
    return event | values


def validation(number: int, **values: float) -> dict[str, Any]:
    return {"event": "validation", "step": number, **values}


@pytest.fixture
def plan(make_plan: PlanFactory) -> TrainingPlan:
    return make_plan("run", random_examples(8))


def nothing(_checkpoint: Mapping[str, Any]) -> None:
    pass


def feed(monitor: TrainingMonitor, *events: dict[str, Any]) -> None:
    for event in events:
        monitor.on_event(event)


def lines(text: bytes | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_progress_says_how_it_goes(partial: PartialWork, plan: TrainingPlan) -> None:
    progress = Recorder()
    monitor = TrainingMonitor(progress, partial, plan, nothing)
    rewards = {"event": "rewards", "step": 2, "total": 0.625, "rewards": {"answer": 0.75}}
    monitor.expect_ranks()
    feed(monitor, START, validation(0, loss=3.0), step(1), rewards, step(2, mfu=0.41))
    assert progress.calls == [
        ("start", "Loading the model", 2, "ranks"),
        ("advance", 2),
        ("start", "Validating before training", 1, "validation"),
        ("advance", 1),
        ("start", "Training (sft)", 4, "steps"),
        ("note", "validation 3.000"),
        ("advance", 1),
        (
            "note",
            "loss 2.000, validation 3.000, gradient norm 0.5, 16,000 tokens/s, 3.22 GB per rank",
        ),
        ("advance", 1),
        (
            "note",
            "loss 1.000, validation 3.000, reward 0.625, gradient norm 0.5, 16,000 tokens/s, "
            "41% MFU, 3.22 GB per rank",
        ),
    ]


def test_the_last_word_on_a_training_has_its_last_validation(
    partial: PartialWork, make_plan: PlanFactory
) -> None:
    progress = Recorder()
    plan = make_plan("run", random_examples(8), supervised={"best_by": "quote_rate"})
    monitor = TrainingMonitor(progress, partial, plan, nothing)
    feed(monitor, START, validation(0, loss=3.0), step(1), validation(1, loss=1.5, quote_rate=0.75))
    kind, note = progress.calls[-1]
    assert kind == "note"
    assert note.startswith("loss 2.000, validation 1.500, quote rate 0.750, gradient norm")


def test_an_early_end_and_an_earlier_step_are_said(
    partial: PartialWork, plan: TrainingPlan, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline_lib")
    monitor = TrainingMonitor(Recorder(), partial, plan, nothing)
    feed(monitor, START, validation(0, loss=3.0), step(1), step(2), step(3))
    feed(monitor, {"event": "best", "step": 1})
    monitor.finish()
    assert monitor.num_steps == 3
    assert "Ended at step 3 of 4" in caplog.text
    assert "Step 1 had the best validation" in caplog.text


def test_the_artifact_holds_the_whole_log(
    partial: PartialWork, plan: TrainingPlan, tmp_path: Path
) -> None:
    monitor = TrainingMonitor(Recorder(), partial, plan, nothing)
    feed(
        monitor,
        START,
        validation(0, loss=3.0, loss_answer=3.5),
        step(1, task_losses={"answer": 2.5, "quotes": 1.0}, metrics={"rewards/margins": 0.1}),
        step(2),
        validation(2, loss=1.0, loss_answer=1.25),
    )
    folder = tmp_path / "artifact"
    folder.mkdir()
    monitor.write(folder)
    log = lines((folder / "log.jsonl").read_text())
    assert log[0] == {"step": 0, "eval_loss": 3.0, "eval_loss_answer": 3.5}
    assert log[1]["loss_answer"] == 2.5
    assert log[1]["rewards/margins"] == 0.1
    assert "mfu" not in log[1]
    written = (folder / EVENTS_FILE).read_bytes()
    for tag in (
        b"loss/train",
        b"loss/answer",
        b"validation/loss_answer",
        b"optimizer/grad_norm",
        b"speed/tokens_per_second",
        b"memory/bytes",
        b"rewards/margins",
    ):
        assert tag in written
    assert monitor.metrics() == {
        "final_train_loss": 1.0,
        "initial_validation_loss": 3.0,
        "initial_validation_loss_answer": 3.5,
        "final_validation_loss": 1.0,
        "final_validation_loss_answer": 1.25,
    }
    assert monitor.speed() == {"train_seconds": 0.5, "train_rows": 16, "train_tokens": 8000}


def test_the_log_is_in_s3_before_the_checkpoint_that_it_leads_up_to(
    partial: PartialWork, plan: TrainingPlan
) -> None:
    seen: list[tuple[dict[str, Any], list[int]]] = []

    def on_checkpoint(checkpoint: Mapping[str, Any]) -> None:
        stored = partial.get("log.jsonl") or b""
        assert EVENTS_FILE in partial.keys()  # noqa: SIM118
        seen.append((dict(checkpoint), [entry["step"] for entry in lines(stored)]))

    monitor = TrainingMonitor(Recorder(), partial, plan, on_checkpoint)
    checkpoint = {"event": "checkpoint", "step": 2, "folder": "checkpoint-2", "is_best": True}
    feed(monitor, START, step(1), step(2), checkpoint)
    assert seen == [({"step": 2, "folder": "checkpoint-2", "is_best": True}, [1, 2])]


def test_the_log_is_stored_every_minute(partial: PartialWork, plan: TrainingPlan) -> None:
    now = [0.0]
    monitor = TrainingMonitor(Recorder(), partial, plan, nothing, clock=lambda: now[0])
    feed(monitor, START, step(1))
    assert partial.get("log.jsonl") is None
    now[0] = 61.0
    feed(monitor, step(2))
    now[0] = 62.0
    feed(monitor, step(3))
    assert [entry["step"] for entry in lines(partial.get("log.jsonl") or b"")] == [1, 2]


def test_final_figures_are_those_of_the_step_that_is_exported(
    partial: PartialWork, plan: TrainingPlan
) -> None:
    monitor = TrainingMonitor(Recorder(), partial, plan, nothing)
    feed(monitor, START, validation(0, loss=3.0), step(1), validation(1, loss=1.0), step(2))
    feed(monitor, validation(2, loss=2.0))
    assert monitor.metrics()["final_validation_loss"] == 2.0
    feed(monitor, {"event": "best", "step": 1})
    assert monitor.best_step == 1
    assert monitor.metrics()["final_validation_loss"] == 1.0


def test_a_resumed_run_goes_on_with_the_log_of_its_checkpoint(
    partial: PartialWork, make_plan: PlanFactory, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "resume-3"
    checkpoint.mkdir()
    history = [{"step": 0, "eval_loss": 3.0}, {"step": 3, "epoch": 0.75, "loss": 0.5}]
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    plan = make_plan("run", random_examples(8), resume_from=checkpoint)
    progress = Recorder()
    monitor = TrainingMonitor(progress, partial, plan, nothing)
    feed(monitor, START, step(4))
    assert [entry["step"] for entry in monitor.log] == [0, 3, 4]
    assert progress.calls[1:3] == [
        ("start", "Training (sft) from step 3", 1, "steps"),
        ("advance", 1),
    ]
    assert monitor.metrics()["initial_validation_loss"] == 3.0


def test_a_store_that_fails_costs_the_log_but_not_the_training(
    plan: TrainingPlan, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def put(self, key: str, data: bytes) -> None:
            raise StoreUnavailableError("no route to host")

    failing: Callable[..., Any] = Broken
    monitor = TrainingMonitor(Recorder(), failing(), plan, nothing)
    feed(monitor, START, step(1))
    monitor.upload()
    assert "could not be stored: no route to host" in caplog.text
