"""An estimate of a training, as it is saved and as people read it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline_lib.config import BatchArithmetic, Objective
from pipeline_lib.config.training import Method
from pipeline_lib.raft.extrapolation import Quantity

_SHOWN_BYTES = 10_000_000
"""Smaller parts are not named."""


class MemoryUse(BaseModel):
    """Bytes by what they hold."""

    model_config = ConfigDict(frozen=True)

    parts: dict[str, int]
    available: int

    @property
    def num_bytes(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether it is available."""
        return self.num_bytes <= self.available

    def __str__(self) -> str:
        shown = sorted(self.parts.items(), key=lambda part: -part[1])
        named = ", ".join(f"{name} {in_gb(size)}" for name, size in shown if size >= _SHOWN_BYTES)
        return f"{in_gb(self.num_bytes)} ({named})"


class LargestMicroBatch(BaseModel):
    """The micro batch that decides what activations take."""

    model_config = ConfigDict(frozen=True)

    num_rows: int
    num_tokens: int
    num_loss_tokens: int


class TrainingEstimate(BaseModel):
    """What one stage of a training is expected to take."""

    model_config = ConfigDict(frozen=True)

    objective: Objective
    method: Method
    device: Literal["cpu", "cuda"]
    hardware: str
    precision: Literal["bf16", "fp16", "fp32"]
    batch: BatchArithmetic
    learning_rate: float
    """Its peak."""
    num_parameters: int
    num_trainable_parameters: int
    gradient_checkpointing: bool
    """As configured; 'auto' is on where memory would not suffice without."""
    largest_micro_batch: LargestMicroBatch
    are_activations_simulated: bool
    """Else they are told by a formula for the usual decoder."""
    device_memory: MemoryUse
    """Of one GPU; on CPU of all ranks of a node together."""
    host_memory: MemoryUse
    """Of one node; on CPU the same as `device_memory`."""
    num_rows: int
    num_tokens_per_epoch: int
    """That are computed: a shared context once, and padding too."""
    num_loss_tokens_per_epoch: int
    num_steps: int
    flops: float
    seconds: Quantity | None
    """Of the steps; starting, validating and saving come on top. `None`: not known."""
    tokens_per_second: Quantity | None
    """Of all ranks together."""
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether memory suffices."""
        return self.device_memory.fits and self.host_memory.fits

    @property
    def shortage(self) -> int:
        """Bytes that are missing, on the device or on the host, whichever is more; 0 for none."""
        uses = self.device_memory, self.host_memory
        return max(0, *(use.num_bytes - use.available for use in uses))


def in_gb(num_bytes: float) -> str:
    """Bytes in units of 10^9 with three digits or so: '0.35 GB', '12.4 GB', '141 GB'."""
    number = num_bytes / 1e9
    digits = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:,.{digits}f} GB"
