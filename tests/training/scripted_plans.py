"""Plans whose ranks do as told (`scripted_rank`), to test what starts, watches and ends ranks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.plan import TrainingPlan

ScriptedPlan = Callable[..., TrainingPlan]
WORKER = "tests.training.scripted_rank"


def scripted_plans(
    folder: Path, monkeypatch: pytest.MonkeyPatch, base_model_path: Path | None = None
) -> ScriptedPlan:
    """A maker of plans: one list of actions for each rank of all nodes, then fields of `launch`."""
    for module in ("nodes", "processes"):
        monkeypatch.setattr(f"pipeline_lib.training.{module}.WORKER_MODULE", WORKER)

    def build(*actions: list[str], num_nodes: int = 1, **launch: Any) -> TrainingPlan:
        script = folder / "script.json"
        script.write_text(json.dumps({str(rank): each for rank, each in enumerate(actions)}))
        config = FinetuneConfig.model_validate(
            {
                "batch": {"global_batch_size": len(actions)},
                "launch": {
                    "num_processes": len(actions) // num_nodes,
                    "num_nodes": num_nodes,
                    **launch,
                },
            }
        )
        return TrainingPlan(
            config=config,
            batch=config.batch_arithmetic,
            base_model_path=base_model_path or folder,
            files={"script": script},
            run_folder=folder,
            device="cpu",
            precision="fp32",
            learning_rate=1e-3,
            num_epochs=1,
        )

    return build


def train(plan: TrainingPlan) -> list[dict[str, Any]]:
    """Run it to its end; gives what rank 0 told."""
    events: list[dict[str, Any]] = []
    run_training(plan, events.append)
    return events


def processes_of(plan: TrainingPlan) -> list[int]:
    """Pids of live processes that were started for this plan."""
    marker = str(plan.run_folder)
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        command = process.info["cmdline"] or []
        if any(marker in part for part in command) and process.info["status"] != "zombie":
            found.append(process.info["pid"])
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
