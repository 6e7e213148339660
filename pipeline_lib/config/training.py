"""How a model is fine-tuned."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import BUNDLED_LANGUAGE_MODEL, FrozenConfig, operational


class LoraSettings(FrozenConfig):
    """Low-rank adaptation (Hu et al. 2021)."""

    r: int = Field(
        16, ge=1, le=1024, title="Rank", description="More parameters to train with each step up."
    )
    alpha: int = Field(32, ge=1, title="Alpha", description="Updates are scaled by alpha / rank.")
    dropout: float = Field(
        0.0, ge=0, lt=1, title="Dropout", description="Share of the adapter's inputs left out."
    )
    target_modules: str = Field(
        "all-linear", title="Target modules", description="A PEFT pattern or 'all-linear'."
    )


class FinetuneConfig(FrozenConfig):
    """From a dataset and a base model to a fine-tuned model."""

    base_model: str = Field(
        BUNDLED_LANGUAGE_MODEL,
        title="Base model",
        description="'bundled:…', a hub id, or a local folder with safetensors.",
    )
    method: Literal["lora", "full"] = Field(
        "lora",
        title="Method",
        description="'lora' trains small additional matrices, 'full' every weight.",
    )
    lora: LoraSettings = Field(default_factory=LoraSettings, title="LoRA")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2,
        title="DeepSpeed ZeRO stage",
        description="What the ranks share out: 0 nothing, 1 optimizer state, 2 also gradients, "
        "3 also weights.",
    )
    num_processes: int = Field(
        2,
        ge=1,
        le=64,
        title="Processes (ranks)",
        description="One per GPU; on CPU, ranks over gloo.",
    )
    micro_batch_size: int = Field(
        1, ge=1, title="Micro batch", description="Rows per rank and forward pass."
    )
    global_batch_size: int = Field(
        4,
        ge=1,
        title="Global batch",
        description="Rows per optimizer step; a multiple of processes x micro batch.",
    )
    num_epochs: float = Field(
        3.0, gt=0, title="Epochs", description="Passes over the training rows."
    )
    max_steps: int = Field(
        -1, ge=-1, title="Most steps", description="Optimizer steps; -1: set by epochs."
    )
    learning_rate: float = Field(
        1e-3,
        gt=0,
        lt=1,
        title="Learning rate",
        description="Its peak, after the warm-up. The default suits LoRA on the bundled model; "
        "2e-4 is usual for LoRA on several billion parameters, 1e-5 for method 'full'.",
    )
    warmup_fraction: float = Field(
        0.05,
        ge=0,
        le=1,
        title="Warm-up share of steps",
        description="The learning rate rises from 0 during these, then falls.",
    )
    max_seq_len: int = Field(
        2048,
        ge=32,
        title="Longest row (tokens)",
        description="Longer rows are dropped and counted, never cut.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", title="Precision", description="'auto': bf16 where the hardware has it."
    )
    gradient_checkpointing: bool = Field(
        False,
        title="Gradient checkpointing",
        description="Less memory, about a third slower.",
    )
    checkpoint_every_steps: int = operational(
        20, ge=1, title="Checkpoint every (steps)", description="Uploaded to S3, resumed from."
    )
    timeout_seconds: int = operational(
        86_400, gt=0, title="Time limit (seconds)", description="The process group is ended after."
    )
    seed: int = Field(
        42, ge=0, title="Seed", description="Of the weights' start and the rows' order."
    )

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro batches per rank and optimizer step."""
        return self.global_batch_size // (self.micro_batch_size * self.num_processes)

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        per_forward = self.micro_batch_size * self.num_processes
        if self.global_batch_size % per_forward:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of "
                f"num_processes x micro_batch_size = {self.num_processes} x "
                f"{self.micro_batch_size} = {per_forward}"
            )
        return self
