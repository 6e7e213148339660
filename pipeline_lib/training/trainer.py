"""The Hugging Face Trainer, bent in three places: batches, validation, and non-finite losses."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pipeline_lib.errors import NonFiniteLossError
from pipeline_lib.training.collator import collate
from pipeline_lib.training.deepspeed import MAX_GRAD_NORM, deepspeed_config
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, TrainingPlan, append_event


def training_arguments(plan: TrainingPlan) -> TrainingArguments:
    """The Trainer's arguments for a plan."""
    config = plan.config
    return TrainingArguments(
        output_dir=str(plan.run_folder / CHECKPOINTS_FOLDER),
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_fraction,  # a value below 1 is a share of all steps
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        bf16=plan.precision == "bf16",
        use_cpu=plan.device == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        activation_checkpointing=config.gradient_checkpointing,
        # Reentrant checkpointing fails on inputs without gradient, which is what LoRA has.
        activation_checkpointing_kwargs={"use_reentrant": False},
        average_tokens_across_devices=True,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint_every_steps,
        save_total_limit=None,  # the parent process deletes a checkpoint once it has stored it
        eval_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=plan.device == "cuda",
        disable_tqdm=True,
        deepspeed=deepspeed_config(config, plan.precision),
    )


class AnswerTrainer(Trainer):  # type: ignore[misc]
    """Trains on answer tokens only.

    The Trainer divides the summed loss of all micro batches on all ranks by their number of
    `shift_labels`, so a step's loss is the mean over its answer tokens, whatever the row lengths.
    """

    def __init__(
        self, model: Any, arguments: TrainingArguments, train: Any, validation: Any
    ) -> None:
        super().__init__(model=model, args=arguments, train_dataset=train, data_collator=collate)
        self._validation = validation
        self.add_callback(_ValidationAtStart(self))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.args.max_steps > 0:
            return int(self.args.max_steps)
        per_epoch: int = math.ceil(
            len(self.train_dataset)
            / (self.args.train_batch_size * self.args.world_size)
            / self.args.gradient_accumulation_steps
        )
        total: int = math.ceil(self.args.num_train_epochs * per_epoch)
        return total

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro batch; stops on a non-finite loss, before any update is made from it."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1}",
                hint="Lower finetune.learning_rate, or train in fp32 (finetune.precision).",
            )
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.log_validation()
        super()._save_checkpoint(model, trial)

    def log_validation(self) -> None:
        """Put the validation loss into the log, which checkpoints keep."""
        self.log({"eval_loss": self.validation_loss()})

    def validation_loss(self) -> float:
        """Mean negative log-likelihood per answer token over the validation rows (nats).

        Rows are dealt to the ranks in turn. Each rank makes the same number of forward passes, as
        ZeRO-3 requires; a rank that has run out repeats a row with weight 0.
        """
        rank, world = self.args.process_index, self.args.world_size
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        for index in range(rank, math.ceil(len(self._validation) / world) * world, world):
            row = self._validation[index % len(self._validation)]
            inputs = self._prepare_inputs(collate([row]))
            with torch.no_grad():
                loss = model(**inputs, num_items_in_batch=1).loss
            if index < len(self._validation):
                sums += torch.tensor([float(loss), inputs["shift_labels"].numel()])
        if world > 1:
            sums = sums.to(self.args.device)
            torch.distributed.all_reduce(sums)
        model.train(was_training)
        return float(sums[0] / sums[1])


class _ValidationAtStart(TrainerCallback):  # type: ignore[misc]
    """Logs the untrained model's validation loss as step 0.

    Not before `train`: only there does ZeRO-3 wrap the model whose weights it has partitioned.
    """

    def __init__(self, trainer: AnswerTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Unless the run is resumed, when its log has that entry already."""
        if state.global_step == 0:
            self._trainer.log_validation()


class ProgressEvents(TrainerCallback):  # type: ignore[misc]
    """Tells the parent process about steps and finished checkpoints (rank 0)."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._path = plan.events_path
        self._is_first_rank = os.environ["RANK"] == "0"
        self._clock = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step's loss (nats per answer token), learning rate and gradient norm."""
        logs = kwargs.get("logs") or {}
        if not self._is_first_rank:
            return
        if "eval_loss" in logs:
            append_event(
                self._path, "validation", step=state.global_step, loss=float(logs["eval_loss"])
            )
        if "loss" not in logs:
            return
        now = time.monotonic()
        append_event(
            self._path,
            "step",
            step=state.global_step,
            loss=float(logs["loss"]),
            learning_rate=logs.get("learning_rate"),
            grad_norm=float(logs["grad_norm"]) if "grad_norm" in logs else None,
            seconds=round(now - self._clock, 3),
        )
        self._clock = now

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint is complete once every rank has written its part."""
        torch.distributed.barrier()
        if self._is_first_rank:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            append_event(self._path, "checkpoint", step=state.global_step, folder=folder)
