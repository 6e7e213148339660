"""What the parent process tells the ranks, and what they tell it back, as JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline_lib.config import BatchArithmetic, FinetuneConfig, Objective, ScheduleConfig

EVENTS_FILE = "events.jsonl"
LOG_FILE = "training.log"
CHECKPOINTS_FOLDER = "checkpoints"
EXPORT_FOLDER = "export"
HISTORY_FILE = "history.jsonl"
"""The Trainer's log, kept in its checkpoints and so whole after a resume."""
PREEMPTED_EXIT = 75
"""Exit code of a rank that saved and ended because it was told to (`EX_TEMPFAIL` of sysexits.h)."""


class TrainingPlan(BaseModel):
    """One training run, resolved: nothing is left for the ranks to decide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: FinetuneConfig
    """Of one stage."""
    batch: BatchArithmetic
    base_model_path: Path
    adapter_path: Path | None = None
    """An adapter to train on instead of a new one."""
    files: dict[str, Path]
    """Files of examples; which there are, the objective knows."""
    run_folder: Path
    """Events, log, checkpoints and export go here."""
    device: Literal["cpu", "cuda"]
    precision: Literal["bf16", "fp16", "fp32"]
    learning_rate: float
    """Its peak."""
    num_epochs: float
    gradient_checkpointing: bool = False
    layout: Literal["packed", "padded"] = "packed"
    resume_from: Path | None = None
    """A checkpoint folder."""

    @property
    def objective(self) -> Objective:
        """What is trained towards."""
        return self.config.stages[0]

    @property
    def schedule(self) -> ScheduleConfig:
        """Most steps, warm-up, validation."""
        return self.config.schedule_of(self.objective)

    @property
    def events_path(self) -> Path:
        """Where rank 0 appends events."""
        return self.run_folder / EVENTS_FILE


def checkpoint_folder(step: int) -> str:
    """Name of the folder of a step's checkpoint, below `CHECKPOINTS_FOLDER`."""
    return f"checkpoint-{step}"


def append_event(path: Path, event: str, **values: Any) -> None:
    """Append one event as a JSON line, in a single write."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"event": event, **values}) + "\n")


class EventReader:
    """Reads the lines of an events file that have come since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Complete lines only; a line being written is left for the next look."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                yield json.loads(line)
