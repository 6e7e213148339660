"""The Trainer of everything that learns tokens: planned batches, the head where it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from pipeline_lib.config import BatchArithmetic
from pipeline_lib.training.attention import register_segment_attention
from pipeline_lib.training.batches import (
    PlannedBatches,
    PlannedRows,
    plan_epoch,
    steps_per_epoch,
)
from pipeline_lib.training.collation import (
    PackedCollator,
    PaddedCollator,
    Targets,
)
from pipeline_lib.training.examples import ExampleFile
from pipeline_lib.training.loop import LoopMixin, loop_training_arguments
from pipeline_lib.training.losses import target_logits, token_losses
from pipeline_lib.training.meter import BatchWork, causal_pairs
from pipeline_lib.training.plan import TrainingPlan
from pipeline_lib.training.prefixes import shared_prefixes


class PlannedLoader(DataLoader[Any]):
    """A loader whose batches are `PlannedBatches`; the Trainer tells it the epoch."""

    batch_sampler: PlannedBatches

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next."""
        self.batch_sampler.set_epoch(epoch)


class SupervisedTrainer(LoopMixin, Trainer):  # type: ignore[misc]
    """Learns what follows the prompts of examples.

    The loss of a step is the sum over its target tokens of weight times negative log-likelihood,
    divided by the sum of their weights: over all micro batches and ranks, so it does not depend on
    how the step is cut.

    Args:
        plan: of the run.
        model: to train.
        train: examples to learn.
        validation: examples to measure on.
    """

    def __init__(
        self, plan: TrainingPlan, model: Any, train: ExampleFile, validation: ExampleFile
    ) -> None:
        is_packed = plan.layout == "packed"
        if is_packed:
            base = model.get_base_model() if hasattr(model, "peft_config") else model
            base.set_attn_implementation(register_segment_attention())
        self.plan = plan
        self.validation_dataset = validation
        self._tasks = sorted({*train.tasks, *validation.tasks})
        shares = is_packed and plan.config.batch.share_contexts
        collator = PackedCollator(self._tasks, share_contexts=shares) if is_packed else None
        self._collate = collator or PaddedCollator(self._tasks)
        self._rows, self._validation_rows = (
            _planned_rows(examples, shares) for examples in (train, validation)
        )
        super().__init__(
            model=model,
            args=loop_training_arguments(plan),
            train_dataset=train,
            data_collator=self._collate,
        )
        # The loss is divided by the weights of all micro batches already.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True
        self._task_sums = self._no_sums()

    def batch_facts(self) -> dict[str, Any]:
        """See `LoopMixin`."""
        num_tokens = sum(self._rows.lengths)
        return {
            "num_rows": len(self._rows.lengths),
            "num_tokens_per_epoch": num_tokens,
            "num_loss_tokens_per_epoch": num_tokens - sum(self.train_dataset.num_prompt_tokens),
        }

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's part of the plan; Accelerate would deal it out once more, so it is not asked.

        The Trainer moves each batch to the device itself.
        """
        batch, seed = self.plan.batch, self.plan.config.seed
        schedule = self.plan.schedule
        num_steps = steps_per_epoch(
            self._rows, batch, seed, self.plan.num_epochs, schedule.max_steps
        )
        return PlannedLoader(
            self.train_dataset,
            batch_sampler=PlannedBatches(
                self._rows, batch, seed=seed, rank=self.args.process_index, num_steps=num_steps
            ),
            collate_fn=self._collate,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The micro batches of a step, and the sum of weights over them on all ranks."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        own = sum(batch["targets"].weights.sum() for batch in batches)
        return batches, self._summed(torch.as_tensor(own, dtype=torch.float64, device=device))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This micro batch's part of the step's loss, times the ranks, over which it is averaged.

        Args:
            model: as wrapped for training.
            inputs: of the collator.
            return_outputs: not used: there is nothing else to return.
            num_items_in_batch: sum of the weights of the step's target tokens, a tensor.
        """
        losses, targets = self._losses(model, inputs)
        weights = (targets.weights / num_items_in_batch * self.args.world_size).to(losses.dtype)
        loss = (losses * weights).sum()
        return (loss, {}) if return_outputs else loss

    def _losses(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Targets]:
        """Negative log-likelihood of each target token; counted for its task."""
        told = dict(inputs)
        targets: Targets = told.pop("targets").to(self.args.device)
        losses = self._token_losses(model, told, targets)
        if targets.num_rows:
            self._task_sums[0].index_add_(0, targets.tasks, losses.detach().double())
            self._task_sums[1].index_add_(0, targets.tasks, torch.ones_like(targets.weights))
        return losses, targets

    def _token_losses(self, model: Any, inputs: dict[str, Any], targets: Targets) -> torch.Tensor:
        """Negative log-likelihoods in the order of `targets`."""
        return token_losses(target_logits(model, inputs), targets.ids)

    def pop_task_losses(self) -> dict[str, tuple[float, float]]:
        """Of each task, summed loss and number of target tokens since the last call, of all ranks.

        Collective.
        """
        sums = self._summed(self._task_sums)
        self._task_sums = self._no_sums()
        totals, counts = sums.tolist()
        return {
            task: (total, count)
            for task, total, count in zip(self._tasks, totals, counts, strict=True)
            if count
        }

    def work_of(self, inputs: Any) -> BatchWork:
        """See `ReportingMixin`."""
        targets: Targets = inputs["targets"]
        if not targets.num_rows:
            return BatchWork()
        segments = inputs.get("segments")
        if segments is None:
            num_rows, width = inputs["input_ids"].shape
            pairs, num_tokens = num_rows * causal_pairs(width), num_rows * width
        else:
            num_tokens = inputs["input_ids"].numel()
            pairs = segments.num_pairs
        return BatchWork(
            num_rows=targets.num_rows,
            num_tokens=num_tokens,
            num_scored=len(targets.ids),
            num_pairs=pairs,
        )

    def validate(self) -> dict[str, float]:
        """Mean negative log-likelihood per target token of the validation examples (nats).

        As in training, weights of tasks count in `loss`; `loss_<task>` is a task's own mean.
        """
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        kept, self._task_sums = self._task_sums, self._no_sums()
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for indices in self._validation_batches():
            batch = self._collate([self.validation_dataset[index] for index in indices])
            with torch.no_grad():
                losses, targets = self._losses(model, self._prepare_inputs(batch))
            sums += torch.stack([(losses * targets.weights).sum(), targets.weights.sum()])
        total, weight = self._summed(sums).tolist()
        by_task = self.pop_task_losses()
        self._task_sums = kept
        model.train(was_training)
        tasks = {f"loss_{task}": loss / count for task, (loss, count) in by_task.items()}
        return {"loss": total / weight, **(tasks if len(self._tasks) > 1 else {})}

    def _validation_batches(self) -> Iterator[Sequence[int]]:
        """This rank's: as many on every rank, each about as long as one row may be."""
        longest = max(self.plan.config.batch.max_seq_len, max(self._validation_rows.lengths))
        each = BatchArithmetic(
            unit="tokens",
            global_batch=longest * self.args.world_size,
            micro_batch=longest,
            num_ranks=self.args.world_size,
            gradient_accumulation_steps=1,
        )
        for step in plan_epoch(self._validation_rows, each, seed=0, epoch=0):
            yield from step[self.args.process_index]

    def _no_sums(self) -> torch.Tensor:
        return torch.zeros(2, len(self._tasks), dtype=torch.float64, device=self.args.device)

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        """Over all ranks."""
        if self.args.world_size > 1:
            torch.distributed.all_reduce(values)
        return values


def _planned_rows(examples: ExampleFile, shares: bool) -> PlannedRows:
    if not shares:
        return PlannedRows(lengths=examples.lengths)
    return PlannedRows(
        lengths=examples.lengths,
        groups=examples.prompt_groups,
        prefixes=shared_prefixes(examples),
    )
