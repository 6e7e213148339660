"""The one training loop: the Hugging Face Trainer, bent where Raftline needs more of it.

Every objective's trainer is `class X(LoopMixin, <a Trainer>)`: batches and loss are its own, the
rest is the same. What is bent: a loss or gradient that is not finite ends the run before it gets
into a checkpoint, the validation is the objective's own and goes into the log that checkpoints
keep, and what happens is told to the parent process as events.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments

from pipeline_lib.errors import NonFiniteLossError
from pipeline_lib.training.deepspeed import deepspeed_config
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, TrainingPlan
from pipeline_lib.training.reporting import ProgressEvents
from pipeline_lib.training.resuming import CheckpointMixin
from pipeline_lib.training.validation import ValidationMixin, ValidationSchedule


def loop_arguments(plan: TrainingPlan) -> dict[str, Any]:
    """What every objective's `TrainingArguments` (or its kin of TRL) have in common."""
    config, schedule = plan.config, plan.schedule
    rows = plan.batch.micro_batch if plan.batch.unit == "rows" else 1
    return {
        "output_dir": str(plan.run_folder / CHECKPOINTS_FOLDER),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": plan.batch.gradient_accumulation_steps,
        "num_train_epochs": plan.num_epochs,
        "max_steps": schedule.max_steps,
        "learning_rate": plan.learning_rate,
        "warmup_steps": schedule.warmup_fraction,  # a value below 1 is a share of all steps
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(
            schedule.schedule, schedule.schedule
        ),
        "weight_decay": schedule.weight_decay,
        "max_grad_norm": schedule.max_grad_norm,
        "bf16": plan.precision == "bf16",
        "fp16": plan.precision == "fp16",
        "use_cpu": plan.device == "cpu",
        "seed": config.seed,
        "data_seed": config.seed,
        **_checkpointing_arguments(plan),
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        "neftune_noise_alpha": config.engine.neftune_noise_alpha or None,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": config.checkpoints.every_steps,
        "save_total_limit": None,  # the parent process deletes a checkpoint once it has stored it
        "eval_strategy": "no",  # the objective's own validation takes its place
        "report_to": [],
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": plan.device == "cuda",
        "disable_tqdm": True,
        "deepspeed": deepspeed_config(plan) if config.engine.zero_stage else None,
    }


def _checkpointing_arguments(plan: TrainingPlan) -> dict[str, Any]:
    """Gradient checkpointing, under the name that the installed transformers has for it."""
    names = {field.name for field in fields(TrainingArguments)}
    name = "activation" if "activation_checkpointing" in names else "gradient"
    return {
        f"{name}_checkpointing": plan.gradient_checkpointing,
        # Reentrant checkpointing fails on inputs without gradient, which is what LoRA has.
        f"{name}_checkpointing_kwargs": {"use_reentrant": False},
    }


def loop_training_arguments(plan: TrainingPlan) -> TrainingArguments:
    """`loop_arguments` for the Trainer itself."""
    return TrainingArguments(**loop_arguments(plan))


class LoopMixin(CheckpointMixin, ValidationMixin):
    """Goes before a Trainer among the bases of an objective's trainer.

    The objective sets `plan`, and overrides `validate` and `batch_facts`; `work_of` where its micro
    batches are not `[B, T]`, `pop_task_losses` where it has tasks.
    """

    # Of the Trainer:
    model_wrapped: Any

    def batch_facts(self) -> dict[str, Any]:
        """What an epoch holds: `num_rows`, `num_tokens_per_epoch`, `num_loss_tokens_per_epoch`."""
        raise NotImplementedError

    def watch(self) -> None:
        """Validate when it is due, and tell the parent process what happens."""
        # It prints every step; the parent has them as events, in logs of readable size.
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]
        self.add_callback(ValidationSchedule(self))  # type: ignore[attr-defined]
        self.add_callback(ProgressEvents(self.plan))  # type: ignore[attr-defined]

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro batch; stops on a non-finite loss, before any update is made from it."""
        self.meter.add(self.work_of(inputs))
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        if not torch.isfinite(loss):
            raise self._non_finite("loss", loss.item(), self.state.global_step + 1)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; stops on a gradient that was not finite, before weights it has spoilt are saved."""
        norm = logs.get("grad_norm")
        # In fp16 such a step is skipped, and the scale of the loss is lowered.
        if norm is not None and not math.isfinite(norm) and self.plan.precision != "fp16":
            raise self._non_finite("gradient norm", norm, self.state.global_step)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.meter.paused():
            super()._save_checkpoint(model, trial)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A run that was resumed after its last step would take one more.
        if self.state.global_step >= self.state.max_steps or self.is_out_of_patience:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    @staticmethod
    def _non_finite(what: str, value: float, step: int) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"The {what} became {value} at step {step}",
            hint="Lower the stage's learning_rate, or train in fp32 (engine.precision).",
        )
