"""Training in the test's own process: one rank and no launcher."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline_lib.training.objectives import objective_named
from pipeline_lib.training.plan import TrainingPlan

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
    trainer.train(resume_from_checkpoint=str(plan.resume_from) if plan.resume_from else None)
    return [json.loads(line) for line in plan.events_path.read_text().splitlines()]


def make_trainer(plan: TrainingPlan) -> Any:
    """The trainer of a plan, on a freshly loaded model."""
    from transformers import AutoTokenizer, set_seed

    from pipeline_lib.training.model import load_trainable

    set_seed(plan.config.seed)
    tokenizer = AutoTokenizer.from_pretrained(plan.base_model_path)
    return objective_named(plan.objective).make_trainer(plan, load_trainable(plan), tokenizer)
