"""What the ranks measure while they train, and tell the process that owns them as events.

What is measured goes through the Trainer's own log: so it is in the history that checkpoints keep,
and a resumed run has all of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers import TrainerCallback

from pipeline_lib.training.heartbeat import Heartbeat
from pipeline_lib.training.meter import BatchWork, Meter, ModelCost, causal_pairs, peak_flops
from pipeline_lib.training.plan import append_event
from pipeline_lib.training.standing import VALIDATION_PREFIX

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from pipeline_lib.training.plan import TrainingPlan

_STEP_FIELDS = (
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "seconds",
    "rows",
    "tokens",
    "tokens_per_second",
    "samples_per_second",
    "mfu",
    "memory_bytes",
)
_TASK_PREFIX = "loss_"


class ReportingMixin:
    """The part of the loop that measures how fast it is, and on what."""

    plan: TrainingPlan
    # Of the Trainer:
    args: TrainingArguments
    accelerator: Any
    model: Any

    @cached_property
    def meter(self) -> Meter:
        """The work of this rank since the last log entry."""
        return Meter()

    @cached_property
    def cost(self) -> ModelCost:
        """What a token costs."""
        model = self.model
        return ModelCost.of(model.get_base_model() if hasattr(model, "get_base_model") else model)

    def work_of(self, inputs: Any) -> BatchWork:
        """What one micro batch asks of the model; for inputs `[B, T]`, padded on the right.

        An objective whose micro batches look different says what they hold.
        """
        if not isinstance(inputs, Mapping):
            return BatchWork(num_rows=len(inputs))
        ids = inputs.get("input_ids")
        if ids is None:
            return BatchWork()
        mask = inputs.get("attention_mask")
        lengths = [ids.shape[1]] * ids.shape[0] if mask is None else mask.sum(dim=1).tolist()
        labels = inputs.get("shift_labels")
        return BatchWork(
            num_rows=len(lengths),
            num_tokens=sum(lengths),
            num_scored=sum(lengths) if labels is None else labels.numel(),
            num_pairs=sum(map(causal_pairs, lengths)),
        )

    def pop_task_losses(self) -> dict[str, tuple[float, float]]:
        """For each task learned since the last call, summed loss and number of learned tokens.

        Collective; over all ranks. An objective without tasks has none.
        """
        return {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and with a step's loss also how fast it was."""
        if "loss" in logs:
            logs |= self._measured()
            by_task = self.pop_task_losses().items()
            logs |= {_TASK_PREFIX + task: total / count for task, (total, count) in by_task}
        super().log(logs, start_time)  # type: ignore[misc]

    def _measured(self) -> dict[str, float]:
        """Speed since the last log entry, over all ranks; collective."""
        work, seconds = self.meter.pop()
        own = [work.num_rows, work.num_tokens, work.num_scored, work.num_pairs, _memory(self.plan)]
        values = torch.tensor([own], dtype=torch.float64, device=self.args.device)
        ranks = self.accelerator.gather(values)
        rows, tokens, scored, pairs, _ = ranks.sum(dim=0).tolist()
        measured: dict[str, float] = {"seconds": round(seconds, 4), "rows": int(rows)}
        measured["samples_per_second"] = round(rows / seconds, 3)
        if tokens:
            measured |= {"tokens": int(tokens), "tokens_per_second": round(tokens / seconds, 1)}
        peak = self._peak_flops
        if tokens and peak is not None:
            flops = self.cost.flops(BatchWork(int(rows), int(tokens), int(scored), pairs))
            measured["mfu"] = round(flops / seconds / (peak * len(ranks)), 4)
        measured["memory_bytes"] = int(ranks[:, -1].max())
        return measured

    @cached_property
    def _peak_flops(self) -> float | None:
        if self.plan.device != "cuda":
            return None
        return peak_flops(torch.cuda.get_device_name(), self.plan.precision)


class ProgressEvents(TrainerCallback):  # type: ignore[misc]
    """Tells the parent process what the log holds (rank 0), and that this rank is alive (each)."""

    def __init__(self, plan: TrainingPlan) -> None:
        rank = int(os.environ["RANK"])
        self._path = plan.events_path
        self._is_first_rank = rank == 0
        self._heartbeat = Heartbeat(plan.run_folder, rank)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From now on every forward pass is a sign of life, whoever asks for it."""
        self._heartbeat.beat(state.global_step)
        embeddings = kwargs["model"].get_input_embeddings()
        embeddings.register_forward_pre_hook(lambda *_: self._heartbeat.beat(state.global_step))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Events `validation` and `step`."""
        logs: dict[str, Any] = kwargs.get("logs") or {}
        if not self._is_first_rank:
            return
        validation = {
            name.removeprefix(VALIDATION_PREFIX): _plain(value)
            for name, value in logs.items()
            if name.startswith(VALIDATION_PREFIX) and isinstance(value, int | float)
        }
        if validation:
            append_event(self._path, "validation", step=state.global_step, **validation)
        elif "loss" in logs:
            append_event(self._path, "step", step=state.global_step, **_step(logs))


def _step(logs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `step` event; what a field says nothing of is `None`."""
    numbers = {name: _plain(value) for name, value in logs.items() if _is_number(value)}
    event: dict[str, Any] = {name: numbers.pop(name, None) for name in _STEP_FIELDS}
    tasks = [name for name in numbers if name.startswith(_TASK_PREFIX)]
    event["task_losses"] = {name.removeprefix(_TASK_PREFIX): numbers.pop(name) for name in tasks}
    event["metrics"] = numbers  # what the objective's own trainer measured
    return event


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _memory(plan: TrainingPlan) -> int:
    """Bytes that this rank takes: its peak on the GPU, or what it has now of the machine's."""
    if plan.device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)
