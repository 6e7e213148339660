"""How long a training will take: its floating-point operations over what the hardware computes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.raft.extrapolation import Quantity
from pipeline_lib.training.estimate.hardware import (
    LAUNCH_SECONDS,
    Hardware,
    Precision,
    flops_per_second,
)
from pipeline_lib.training.estimate.states import has_reference
from pipeline_lib.training.estimate.workload import Workload
from pipeline_lib.training.meter import BatchWork, ModelCost


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Of the steps; starting, validating and saving come on top."""

    flops: float
    """Operations that are done on all ranks together, those that are repeated included."""
    seconds: Quantity | None
    """`None` where the hardware's speed is not known."""

    def with_writing(self, seconds: Quantity | None) -> Duration:
        """With the time that writing answers takes on top; unknown if one of the two is."""
        if self.seconds is None or seconds is None:
            return replace(self, seconds=None)
        own = self.seconds
        both = Quantity(
            value=own.value + seconds.value,
            low=own.low + seconds.low,
            high=own.high + seconds.high,
        )
        return replace(self, seconds=both)

    def rate_of(self, amount: float) -> Quantity | None:
        """So much in that time, per second."""
        if self.seconds is None:
            return None
        return Quantity(
            value=amount / self.seconds.value,
            low=amount / self.seconds.high,
            high=amount / self.seconds.low,
        )


def training_duration(
    cost: ModelCost,
    workload: Workload,
    config: FinetuneConfig,
    hardware: Hardware,
    precision: Precision,
    *,
    is_checkpointed: bool,
) -> Duration:
    """The operations of a stage, and how long they take; see `answering` for what comes on top.

    Args:
        cost: of the model.
        workload: of the stage.
        config: of the stage.
        hardware: of each node.
        precision: of matrix products.
        is_checkpointed: with gradient checkpointing.
    """
    epoch = _flops(cost, workload.epoch, config, is_checkpointed=is_checkpointed)
    total = epoch / workload.num_steps_per_epoch * workload.num_steps
    launch = config.launch
    speed = flops_per_second(hardware, precision, cost.attention_width, launch.num_processes)
    if speed is None:
        return Duration(flops=total, seconds=None)
    batch = config.batch_arithmetic
    each = total / batch.num_ranks
    seconds = Quantity(value=each / speed.value, low=each / speed.high, high=each / speed.low)
    if hardware.device == "cuda":
        num_passes = workload.num_steps * batch.gradient_accumulation_steps * cost.num_layers
        seconds = _at_least(seconds, LAUNCH_SECONDS, num_passes)
    return Duration(flops=total, seconds=seconds)


def _at_least(seconds: Quantity, each: Quantity, count: int) -> Quantity:
    return Quantity(
        value=max(seconds.value, each.value * count),
        low=max(seconds.low, each.low * count),
        high=max(seconds.high, each.high * count),
    )


def _flops(
    cost: ModelCost, work: BatchWork, config: FinetuneConfig, *, is_checkpointed: bool
) -> float:
    """Of one epoch.

    Checkpointing computes the layers' forward pass twice; the reference of preference training has
    one as well, and so have answers when they are written; an activated adapter has no backward
    pass through prompts.
    """
    forward = cost.forward_flops(work)
    if config.method == "activated_lora":
        answers = BatchWork(
            work.num_rows,
            work.num_scored,
            work.num_scored,
            # Each answer token sees its row, on average as long as all are.
            work.num_scored * work.num_tokens / max(1, work.num_rows),
        )
        return forward - cost.forward_flops(answers) + cost.flops(answers)
    is_written = config.stages[0] == "grpo"
    repeated = forward * (is_checkpointed + has_reference(config) + is_written)
    return cost.flops(work) + repeated
