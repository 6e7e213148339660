"""Training in the test's own process: one rank and no launcher."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import PreemptedError
from pipeline_lib.training.objectives import objective_named
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, TrainingPlan, checkpoint_folder

ONE_RANK: dict[str, Any] = {
    "method": "full",
    "engine": {"zero_stage": 0},
    "launch": {"num_processes": 1},
    "batch": {"micro_batch_size": 2, "global_batch_size": 4},
}
"""Sections of a configuration that needs no process group."""


def train_here(
    plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch, trainer: Any = None
) -> list[dict[str, Any]]:
    """Train as a worker does, and give the events."""
    monkeypatch.setenv("RANK", "0")
    trainer = trainer or make_trainer(plan)
    trainer.watch()
    before = signal.getsignal(signal.SIGTERM)
    try:
        trainer.train(resume_from_checkpoint=str(plan.resume_from) if plan.resume_from else None)
    finally:
        signal.signal(signal.SIGTERM, before)  # one that fails would go on listening
    return [json.loads(line) for line in plan.events_path.read_text().splitlines()]


def preempt_here(plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch, step: int) -> Path:
    """Train until a step and be told to end in it; the checkpoint that is left."""
    from transformers import TrainerCallback

    class Preemption(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setenv("RANK", "0")
    trainer = make_trainer(plan)
    trainer.add_callback(Preemption())
    with pytest.raises(PreemptedError):
        train_here(plan, monkeypatch, trainer)
    return plan.run_folder / CHECKPOINTS_FOLDER / checkpoint_folder(step)


def make_trainer(plan: TrainingPlan) -> Any:
    """The trainer of a plan, on a freshly loaded model."""
    from transformers import AutoTokenizer, set_seed

    from pipeline_lib.training.model import load_trainable

    set_seed(plan.config.seed)
    tokenizer = AutoTokenizer.from_pretrained(plan.base_model_path)
    return objective_named(plan.objective).make_trainer(plan, load_trainable(plan), tokenizer)
