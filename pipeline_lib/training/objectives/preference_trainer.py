"""The Trainer of preference training: TRL's, with cheaper forward passes.

TRL keeps the reference: with an adapter, a frozen copy of it as it was loaded; for a model that is
trained in full, a second one. So the reference is the model at the start of this stage, also when a
run is resumed, and where the adapter was trained by a stage before.

What is different: the two answers of a pair share their prompt, which is computed once, and they
are scored at their own positions only; TRL computes it twice, and without Triton the language-model
head over all of it. Losses and metrics are defined as there, and tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import use_adapter

from pipeline_lib.training.attention import register_segment_attention
from pipeline_lib.training.batches import PlannedBatches, PlannedRows, steps_per_epoch
from pipeline_lib.training.collation import Collator, PackedCollator, PaddedCollator
from pipeline_lib.training.loop import LoopMixin, loop_arguments
from pipeline_lib.training.losses import target_logits, token_losses
from pipeline_lib.training.meter import BatchWork, causal_pairs
from pipeline_lib.training.model import REFERENCE_ADAPTER
from pipeline_lib.training.objectives.supervised_trainer import PlannedLoader

if TYPE_CHECKING:
    from pipeline_lib.training.examples import Example
    from pipeline_lib.training.objectives.preferences import PairFile
    from pipeline_lib.training.plan import TrainingPlan


def preference_loss(
    kind: str, beta: float, gains: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """The loss of each pair, `[P]`.

    Args:
        kind: 'sigmoid' (Rafailov et al. 2023, eq. 7), 'hinge' (Zhao et al. 2023, with the reference
            as DPO has it), or 'ipo' (Azar et al. 2024, eq. 17, on means over tokens).
        beta: how strongly the model is held to its reference.
        gains: `[P, 2]`, log-probability of the chosen and of the rejected answer, less what the
            reference gives it.
        lengths: `[P, 2]`, tokens of the answers.
    """
    if kind == "ipo":
        chosen, rejected = (gains / lengths).unbind(dim=1)
        return (chosen - rejected - 1 / (2 * beta)) ** 2
    margins = beta * (gains[:, 0] - gains[:, 1])
    return -logsigmoid(margins) if kind == "sigmoid" else torch.relu(1 - margins)


class PairCollator:
    """Makes one micro batch of pairs: of each, the prompt once and both answers behind it."""

    def __init__(self, layout: str, tasks: Sequence[str]) -> None:
        self._collate: Collator = (
            PackedCollator(tasks, share_contexts=True)
            if layout == "packed"
            else PaddedCollator(tasks)
        )

    def __call__(self, pairs: Sequence[tuple[Example, Example]]) -> dict[str, Any]:
        """The inputs of one forward pass over P pairs; none is a pass over one token.

        Returns:
            What the collators of `collation` give, and `num_answer_tokens[P, 2]`, of the chosen and
            of the rejected answers; targets are in that order.
        """
        rows = [example for pair in pairs for example in pair]
        lengths = torch.tensor([row.num_loss_tokens for row in rows], dtype=torch.long)
        return self._collate(rows) | {"num_answer_tokens": lengths.view(-1, 2)}


class PreferenceTrainer(LoopMixin, DPOTrainer):  # type: ignore[misc]
    """Learns from pairs of answers; a step's loss is the mean over its pairs, however it is cut."""

    def __init__(
        self,
        plan: TrainingPlan,
        model: Any,
        tokenizer: Any,
        train: PairFile,
        validation: PairFile,
    ) -> None:
        from datasets import Dataset

        if plan.layout == "packed":
            base = model.get_base_model() if hasattr(model, "peft_config") else model
            base.set_attn_implementation(register_segment_attention())
        self.plan = plan
        self._train, self._validation = train, validation
        self._settings = plan.config.preferences
        self._collate = PairCollator(plan.layout, sorted({*train.faults, *validation.faults}))
        self._validation_reference: dict[int, torch.Tensor] = {}
        super().__init__(
            model=model,
            args=DPOConfig(
                **loop_arguments(plan),
                beta=self._settings.beta,
                loss_type=[self._settings.loss],
                max_length=None,
            ),
            train_dataset=Dataset.from_dict({"pair": range(len(train))}),  # only its length counts
            processing_class=tokenizer,
            data_collator=self._collate,
        )
        # The loss is divided by the pairs of all micro batches already.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True
        self._sums = self._no_sums()

    def _prepare_dataset(self, dataset: Any, *_args: Any, **_kwargs: Any) -> Any:
        """Pairs are tokenized already."""
        return dataset

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """The export writes one."""

    def batch_facts(self) -> dict[str, Any]:
        """See `LoopMixin`; rows are pairs."""
        return {
            "num_rows": len(self._train),
            "num_tokens_per_epoch": sum(self._train.lengths),
            "num_loss_tokens_per_epoch": self._train.num_loss_tokens,
        }

    def get_train_dataloader(self) -> PlannedLoader:
        """This rank's part of the plan; see `SupervisedTrainer`."""
        rows = PlannedRows(lengths=self._train.lengths)
        batch, schedule, seed = self.plan.batch, self.plan.schedule, self.plan.config.seed
        num_steps = steps_per_epoch(rows, batch, seed, self.plan.num_epochs, schedule.max_steps)
        pairs: Any = self._train
        return PlannedLoader(
            pairs,
            batch_sampler=PlannedBatches(
                rows, batch, seed=seed, rank=self.args.process_index, num_steps=num_steps
            ),
            collate_fn=self._collate,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The micro batches of a step, and the number of pairs in them on all ranks."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        own = sum(len(batch["num_answer_tokens"]) for batch in batches)
        return batches, self._summed(torch.tensor(own, dtype=torch.float64, device=device))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """This micro batch's part of the step's loss, times the ranks, over which it is averaged.

        Args:
            model: as wrapped for training.
            inputs: of the collator.
            return_outputs: not used: there is nothing else to return.
            num_items_in_batch: pairs of the step.
        """
        reference = self._reference_log_probs(model, inputs)
        gains = self._log_probs(model, inputs) - reference
        losses = self._losses(gains, inputs)
        rewards = self._settings.beta * gains.detach().double()
        self._sums += torch.stack(
            [
                rewards[:, 0].sum(),
                rewards[:, 1].sum(),
                (rewards[:, 0] > rewards[:, 1]).sum(),
                torch.tensor(len(rewards), device=rewards.device),
            ]
        )
        loss = losses.sum() * (self.args.world_size / float(num_items_in_batch or 1))
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With a step's loss, how far its chosen answers are ahead of the rejected ones.

        `rewards/chosen` and `rewards/rejected` are means of beta times what an answer gained
        against the reference, `rewards/margins` is their difference, and `rewards/accuracies` the
        share of pairs in which the chosen answer gained more: TRL's names.
        """
        if "loss" in logs:
            chosen, rejected, ahead, num_pairs = self._summed(self._sums).tolist()
            self._sums = self._no_sums()
            logs |= {
                "rewards/chosen": chosen / num_pairs,
                "rewards/rejected": rejected / num_pairs,
                "rewards/margins": (chosen - rejected) / num_pairs,
                "rewards/accuracies": ahead / num_pairs,
            }
        super().log(logs, start_time)

    def validate(self) -> dict[str, float]:
        """`loss`, `accuracy` (share of pairs whose chosen answer gained more) and `margin`.

        A tie counts half: before the first step no answer has gained anything.

        Pairs are dealt to the ranks in turn. Each rank makes the same number of forward passes, as
        ZeRO-3 requires; a rank that has run out makes empty ones.
        """
        rank, world = self.args.process_index, self.args.world_size
        model, known = self.model_wrapped, self._validation_reference
        was_training = model.training
        model.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        for index in range(rank, math.ceil(len(self._validation) / world) * world, world):
            inputs = self._prepare_inputs(self._collate(self._validation[index : index + 1]))
            with torch.no_grad(), self.compute_loss_context_manager():
                if index not in known:  # the reference does not change
                    known[index] = self._reference_log_probs(model, inputs)
                gains = self._log_probs(model, inputs) - known[index]
            margins = self._settings.beta * (gains[:, 0] - gains[:, 1])
            losses = self._losses(gains, inputs)
            ahead = (margins.sign() + 1) / 2
            sums += torch.stack([losses.sum(), ahead.sum(), margins.sum()])
        model.train(was_training)
        loss, accuracy, margin = (self._summed(sums) / len(self._validation)).tolist()
        return {"loss": loss, "accuracy": accuracy, "margin": margin}

    def work_of(self, inputs: Any) -> BatchWork:
        """See `ReportingMixin`; the reference's forward passes are not counted."""
        num_pairs = len(inputs["num_answer_tokens"])
        if not num_pairs:
            return BatchWork()
        num_rows, width = inputs["input_ids"].shape
        segments = inputs.get("segments")
        return BatchWork(
            num_rows=num_pairs,
            num_tokens=num_rows * width,
            num_scored=len(inputs["targets"].ids),
            num_pairs=segments.num_pairs if segments else num_rows * causal_pairs(width),
        )

    def _losses(self, gains: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        lengths = inputs["num_answer_tokens"]
        return preference_loss(self._settings.loss, self._settings.beta, gains, lengths)

    def _log_probs(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Log-probabilities of the answers, summed over their tokens, `[P, 2]`, fp32."""
        told = dict(inputs)
        targets = told.pop("targets").to(self.args.device)
        lengths = told.pop("num_answer_tokens")
        losses = token_losses(target_logits(model, told), targets.ids)
        answers = torch.arange(lengths.numel(), device=lengths.device)
        answer_of = answers.repeat_interleave(lengths.flatten())
        counted = losses[: len(answer_of)]  # an empty micro batch has one target, for nothing
        # Adding nothing of all losses keeps the pass over an empty micro batch in the graph.
        sums = (0 * losses.sum()).expand(lengths.numel()).index_add(0, answer_of, -counted)
        return sums.view(lengths.shape)

    def _reference_log_probs(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The same of the reference; without dropout, noise or gradient."""
        was_training = model.training
        with torch.no_grad():
            if self.ref_model is not None:
                return self._log_probs(self.ref_model, inputs)
            model.eval()
            with use_adapter(self.accelerator.unwrap_model(model), REFERENCE_ADAPTER):
                found = self._log_probs(model, inputs)
        model.train(was_training)
        return found

    def _no_sums(self) -> torch.Tensor:
        return torch.zeros(4, dtype=torch.float64, device=self.args.device)

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        """Over all ranks."""
        if self.args.world_size > 1:
            torch.distributed.all_reduce(values)
        return values
