"""Follows a training from the process that owns it: progress, log, TensorBoard, checkpoints.

All that the ranks tell ends up in one list of entries. It becomes `log.jsonl` of the artifact and
the files that TensorBoard shows; while training runs, both lie beside its checkpoints in S3.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import StoreError
from pipeline_lib.progress import Progress
from pipeline_lib.training.export import LOG_FILE
from pipeline_lib.training.plan import TrainingPlan
from pipeline_lib.training.standing import VALIDATION_PREFIX
from pipeline_lib.training.tensorboard import ScalarWriter

logger = logging.getLogger(__name__)

TENSORBOARD_FOLDER = "tensorboard"
_EVENTS_NAME = "events.out.tfevents.raftline"
_STATE_FILE = "trainer_state.json"
"""The Trainer's own, in every checkpoint; holds its log."""
_UPLOAD_SECONDS = 60.0
_COUNTED = ("step", "epoch")
_TAGS = {
    "loss": "loss/train",
    "learning_rate": "optimizer/learning_rate",
    "grad_norm": "optimizer/grad_norm",
    "seconds": "speed/seconds_per_step",
    "rows": "speed/rows_per_step",
    "tokens": "speed/tokens_per_step",
    "tokens_per_second": "speed/tokens_per_second",
    "samples_per_second": "speed/samples_per_second",
    "mfu": "speed/mfu",
    "memory_bytes": "memory/bytes",
}
OnCheckpoint = Callable[[Mapping[str, Any]], None]


class TrainingMonitor:
    """Takes the events of rank 0; give its `on_event` to the launcher.

    Args:
        progress: told of every step.
        partial: where log and TensorBoard files lie while training runs.
        plan: of the run; its checkpoint, if it resumes, holds the log until then.
        on_checkpoint: told of every checkpoint, after the log that leads up to it is stored.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        progress: Progress,
        partial: PartialWork,
        plan: TrainingPlan,
        on_checkpoint: OnCheckpoint,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._partial = partial
        self._plan = plan
        self._on_checkpoint = on_checkpoint
        self._clock = clock
        self._uploaded = clock()
        self._events_path = plan.run_folder / TENSORBOARD_FOLDER / _EVENTS_NAME
        self._scalars = ScalarWriter(self._events_path)
        self._last_step: Mapping[str, Any] = {}
        self._validation: dict[str, float] = {}
        self._reward: float | None = None
        self.facts: dict[str, Any] = {}
        """What rank 0 said at the start."""
        self.best_step: int | None = None
        """At the end, the step whose weights are exported; `None`: the last."""
        self.log: list[dict[str, Any]] = []
        """Entries by step: of training `loss` and more, of validation `eval_loss` and more."""
        for entry in _log_of(plan.resume_from):
            self._enter(entry)
        self._step = max((entry["step"] for entry in self.log), default=0)

    def expect_ranks(self) -> None:
        """Show that the ranks were told to start: until the first event they load the model."""
        ranks = self._plan.batch.num_ranks
        self._progress.start("Loading the model", ranks, "ranks" if ranks > 1 else "rank")

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take one event.

        Raises:
            StoreError: a checkpoint could not be stored.
        """
        values = dict(event)
        kind = values.pop("event")
        if kind == "start":
            self._on_start(values)
        elif kind == "checkpoint":
            self.upload()
            self._on_checkpoint(values)
        elif kind == "validation":
            self._on_validation(values)
        elif kind == "step":
            self._on_step(values)
        elif kind == "best":
            self.best_step = values["step"]
        elif kind == "rewards":
            self._reward = values["total"]
        if self._clock() - self._uploaded > _UPLOAD_SECONDS:
            self.upload()

    def finish(self) -> None:
        """Take note of a training that has ended well, and say what was not to be expected."""
        self._progress.finish()
        if self.num_steps < self.facts["num_steps"]:
            logger.info(
                "Ended at step %d of %d: validation has not improved any more (patience %s)",
                self.num_steps,
                self.facts["num_steps"],
                self._plan.schedule.patience,
            )
        if self.best_step not in (None, self.num_steps):
            logger.info("Step %d had the best validation: its weights are kept", self.best_step)

    @property
    def num_steps(self) -> int:
        """Steps made so far."""
        return self._step

    def upload(self) -> None:
        """Store log and TensorBoard files beside the checkpoints.

        A store that fails here is no reason to end a training: one that stays away will end it at
        the next checkpoint.
        """
        self._uploaded = self._clock()
        try:
            self._partial.put(LOG_FILE, self._lines().encode())
            self._partial.put_file(f"{TENSORBOARD_FOLDER}/{_EVENTS_NAME}", self._events_path)
        except StoreError as error:
            logger.warning("The training log could not be stored: %s", error)

    def write(self, folder: Path) -> None:
        """Write `log.jsonl` and TensorBoard's files into an artifact's folder."""
        (folder / LOG_FILE).write_text(self._lines(), encoding="utf-8")
        target = folder / TENSORBOARD_FOLDER
        target.mkdir()
        (target / _EVENTS_NAME).write_bytes(self._events_path.read_bytes())

    def metrics(self) -> dict[str, float]:
        """The figures that go into the manifest: before training, and of what is exported."""
        steps = [entry for entry in self.log if entry.get("loss") is not None]
        validations = [e for e in self.log if e.get(VALIDATION_PREFIX + "loss") is not None]
        metrics: dict[str, float] = {}
        if steps:
            metrics["final_train_loss"] = steps[-1]["loss"]
        if validations:
            exported = [entry for entry in validations if entry["step"] == self.best_step]
            for when, entry in (
                ("initial", validations[0]),
                ("final", (exported or validations)[-1]),
            ):
                metrics |= {
                    f"{when}_validation_{name.removeprefix(VALIDATION_PREFIX)}": value
                    for name, value in entry.items()
                    if name.startswith(VALIDATION_PREFIX) and value is not None
                }
        return metrics

    def speed(self) -> dict[str, float]:
        """What was trained on, and in how long: sums over all steps, of earlier attempts too."""
        names = ("seconds", "rows", "tokens")
        sums = {name: sum(entry.get(name) or 0 for entry in self.log) for name in names}
        return {f"train_{name}": round(value, 3) for name, value in sums.items()}

    def _on_start(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        logger.info(
            "Training on %s rows (%s learned tokens of %s) for %s steps; %s of %s parameters learn",
            *(f"{facts[name]:,}" for name in ("num_rows", "num_loss_tokens_per_epoch")),
            *(f"{facts[name]:,}" for name in ("num_tokens_per_epoch", "num_steps")),
            *(f"{facts[name]:,}" for name in ("num_trainable_parameters", "num_parameters")),
        )
        self._progress.advance(self._plan.batch.num_ranks)
        if self._step:
            self._start_steps(f" from step {self._step}")
        else:  # a phase of its own, or its time would count as that of a step
            self._progress.start("Validating before training", 1, "validation")

    def _start_steps(self, whence: str = "") -> None:
        num_steps = self.facts["num_steps"] - self._step
        self._progress.start(f"Training ({self._plan.objective}){whence}", num_steps, "steps")

    def _on_validation(self, measured: dict[str, Any]) -> None:
        step = measured.pop("step")
        self._validation = {name: value for name, value in measured.items() if value is not None}
        self._enter(
            {"step": step} | {VALIDATION_PREFIX + name: value for name, value in measured.items()}
        )
        listed = ", ".join(f"{name.replace('_', ' ')} {v:.4g}" for name, v in measured.items())
        logger.info("Validation at step %d: %s", step, listed)
        if step == 0:
            self._progress.advance()
            self._start_steps()
        self._progress.note(self._note())

    def _on_step(self, event: dict[str, Any]) -> None:
        tasks = {f"loss_{task}": value for task, value in event.pop("task_losses").items()}
        metrics = event.pop("metrics")
        said = {name: value for name, value in event.items() if value is not None}
        self._enter(said | tasks | metrics)
        self._progress.advance(event["step"] - self._step)
        self._step = event["step"]
        self._last_step = event
        self._progress.note(self._note())

    def _note(self) -> str:
        """The latest step, and the latest validation."""
        from pipeline_lib.training.estimate.report import in_gb

        step, validation = self._last_step, self._validation
        parts = []
        if "loss" in step:
            is_finite = step["loss"] is not None
            parts.append(f"loss {step['loss']:.3f}" if is_finite else "loss is not finite")
        if "loss" in validation:
            parts.append(f"validation {validation['loss']:.3f}")
        best_by = getattr(self._plan.schedule, "best_by", "loss")
        if best_by != "loss" and best_by in validation:
            parts.append(f"{best_by.replace('_', ' ')} {validation[best_by]:.3f}")
        if self._reward is not None:
            parts.append(f"reward {self._reward:.3f}")
        if step.get("grad_norm") is not None:
            parts.append(f"gradient norm {step['grad_norm']:.3g}")
        if step.get("tokens_per_second") is not None:
            parts.append(f"{step['tokens_per_second']:,.0f} tokens/s")
        if step.get("mfu") is not None:
            parts.append(f"{step['mfu']:.0%} MFU")
        if step.get("memory_bytes") is not None:
            parts.append(f"{in_gb(step['memory_bytes'])} per rank")
        return ", ".join(parts)

    def _enter(self, entry: Mapping[str, Any]) -> None:
        self.log.append(dict(entry))
        scalars = {
            _tag(name): float(value)
            for name, value in entry.items()
            if name not in _COUNTED and isinstance(value, int | float)
        }
        if scalars:
            self._scalars.add(entry["step"], scalars)

    def _lines(self) -> str:
        return "".join(json.dumps(entry) + "\n" for entry in self.log)


def _log_of(checkpoint: Path | None) -> Iterator[dict[str, Any]]:
    """The entries that led up to a checkpoint."""
    if checkpoint is None:
        return
    for entry in json.loads((checkpoint / _STATE_FILE).read_text())["log_history"]:
        yield {name: value for name, value in entry.items() if value is not None}


def _tag(name: str) -> str:
    """The chart of a value: `loss_answer` is one of the group `loss`."""
    if name.startswith(VALIDATION_PREFIX):
        return f"validation/{name.removeprefix(VALIDATION_PREFIX)}"
    if name.startswith("loss_"):
        return f"loss/{name.removeprefix('loss_')}"
    return _TAGS.get(name, name if "/" in name else f"objective/{name}")
