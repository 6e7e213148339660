"""What the parent process tells the ranks, and what they tell it back, as JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline_lib.config import FinetuneConfig

EVENTS_FILE = "events.jsonl"
LOG_FILE = "training.log"
ERROR_FILE = "error.json"
CHECKPOINTS_FOLDER = "checkpoints"
EXPORT_FOLDER = "export"
HISTORY_FILE = "history.jsonl"
"""The Trainer's log, kept in its checkpoints and so whole after a resume."""


class TrainingPlan(BaseModel):
    """One training run, resolved: nothing is left for the ranks to decide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: FinetuneConfig
    base_model_path: Path
    train_examples: Path
    validation_examples: Path
    run_folder: Path
    """Events, log, checkpoints and export go here."""
    device: Literal["cpu", "cuda"]
    precision: Literal["bf16", "fp32"]
    resume_from: Path | None = None
    """A checkpoint folder."""

    @property
    def events_path(self) -> Path:
        """Where rank 0 appends events."""
        return self.run_folder / EVENTS_FILE


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
