"""The Trainer of activated LoRA: as supervised fine-tuning, but each row in two phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline_lib.errors import ConfigError
from pipeline_lib.training.activated import (
    ActivatedRow,
    Calls,
    answer_nlls,
    count_calls,
    cut_row,
    idle_calls,
    invocation_tokens,
    num_shared_tokens,
)
from pipeline_lib.training.collation import PaddedCollator, Targets
from pipeline_lib.training.examples import Example, ExampleFile
from pipeline_lib.training.meter import BatchWork, causal_pairs
from pipeline_lib.training.objectives.supervised_trainer import SupervisedTrainer
from pipeline_lib.training.plan import TrainingPlan


def make_activated_trainer(
    plan: TrainingPlan, model: Any, tokenizer: Any, train: ExampleFile, validation: ExampleFile
) -> ActivatedTrainer:
    """The trainer of a model that `load_trainable` has put an activated LoRA on.

    Raises:
        ConfigError: gradient checkpointing is on, which keeps no cache to read prompts from.
    """
    if plan.gradient_checkpointing:
        raise ConfigError(
            "An activated LoRA is not trained with gradient checkpointing",
            hint="Set finetune.engine.gradient_checkpointing to 'off'.",
        )
    return ActivatedTrainer(plan, model, train, validation, invocation_tokens(tokenizer))


class ActivatedCollator:
    """Cuts examples where the adapter begins.

    Args:
        tasks: numbered in this order.
        invocation: the tokens that switch the adapter on.
        share_contexts: whether prompts of one group are read together.
    """

    def __init__(
        self, tasks: Sequence[str], invocation: tuple[int, ...], *, share_contexts: bool
    ) -> None:
        self._padded = PaddedCollator(tasks)
        self._invocation = invocation
        self._share_contexts = share_contexts

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """`rows` (`ActivatedRow`) and their `targets`, in order."""
        return {
            "rows": [
                cut_row(
                    example.row_id,
                    example.input_ids,
                    example.num_prompt_tokens,
                    self._invocation,
                    prompt_group=(example.prompt_group or None) if self._share_contexts else None,
                )
                for example in examples
            ],
            "targets": self._padded(examples)["targets"],
        }


class ActivatedTrainer(SupervisedTrainer):
    """See `activated`; batches, loss and validation are those of `SupervisedTrainer`."""

    # An estimate that counts a backward pass over prompts would be of work that is not done.
    _peak_flops = None

    def __init__(
        self,
        plan: TrainingPlan,
        model: Any,
        train: ExampleFile,
        validation: ExampleFile,
        invocation: tuple[int, ...],
    ) -> None:
        super().__init__(plan, model, train, validation)
        collator: Any = ActivatedCollator(
            self._tasks, invocation, share_contexts=plan.config.batch.share_contexts
        )
        self._collate = self.data_collator = collator

    def work_of(self, inputs: Any) -> BatchWork:
        """See `ReportingMixin`."""
        rows: list[ActivatedRow] = inputs["rows"]
        lengths = [len(row.prompt) + len(row.tail) for row in rows]
        return BatchWork(
            num_rows=len(rows),
            num_tokens=sum(lengths) - num_shared_tokens(rows),
            num_scored=sum(len(row.targets) for row in rows),
            num_pairs=sum(map(causal_pairs, lengths)),
        )

    def _token_losses(self, model: Any, inputs: dict[str, Any], targets: Targets) -> torch.Tensor:
        """In the order of `targets`; a micro batch without rows makes a pass that weighs nothing.

        Every rank has to have gradients to exchange, and under ZeRO-3, which gathers the weights
        for each pass, to make as many passes as the others.
        """
        rows: list[ActivatedRow] = inputs["rows"]
        own = count_calls(rows)
        most = self._most_calls(own)
        idle = idle_calls(
            model, Calls(most.num_prompt - own.num_prompt, most.num_answer - own.num_answer)
        )
        if not rows:
            return idle.expand(len(targets.ids))
        return torch.cat(answer_nlls(model, rows)) + idle

    def _most_calls(self, own: Calls) -> Calls:
        """Of any rank, where that matters; at least one pass with a gradient."""
        if self.plan.config.engine.zero_stage < 3 or self.args.world_size == 1:
            return Calls(own.num_prompt, max(own.num_answer, 1))
        counts = torch.tensor([own.num_prompt, own.num_answer], device=self.args.device)
        torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
        num_prompt, num_answer = counts.tolist()
        return Calls(num_prompt, max(num_answer, 1))
