"""What one arm is asked to do: the same for every arm but its name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

ArmName = Literal[
    "raftline",
    "raftline-separate",
    "raftline-padded",
    "raftline-activated",
    "trl-default",
    "trl-best",
    "trl-padding-free",
    "hf-trainer",
]
ARMS: dict[ArmName, str] = {
    "raftline": "the product's own path: packed rows, shared contexts, logits of answers only",
    "raftline-separate": "the same, but each row has its context to itself",
    "raftline-padded": "the same, but rows one below the other, padded, and not shared",
    "raftline-activated": "two-phase activated LoRA: the prompt without gradient",
    "trl-default": "TRL's SFTTrainer as it comes, max_length raised so that no row is cut",
    "trl-best": "SFTTrainer without gradient checkpointing, weights in the computing precision, "
    "rows of like length together; with FlashAttention, where installed, padding-free as well",
    "trl-padding-free": "the same, padding-free on whatever attention there is",
    "hf-trainer": "transformers' Trainer, padded batches, labels -100 on prompts, all logits",
}
"""What each arm is, for people."""

JOB_FILE = "job.json"
OUTPUT_FILE = "output.log"


class ArmJob(BaseModel):
    """A run of one arm.

    Every step takes all rows once, so that arms agree about what a step learns from, in whatever
    order each of them takes rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: ArmName
    model_path: Path
    rows_path: Path
    """A file of examples; see `pipeline_lib.training.examples`."""
    validation_path: Path
    """Examples that the product's own path measures itself on before the first step: few."""
    run_folder: Path
    device: Literal["cpu", "cuda"]
    precision: Literal["bf16", "fp32"]
    method: Literal["lora", "full"] = "lora"
    num_rows: int
    """In the file, and so per step."""
    micro_batch: int
    """Rows per forward pass (and rank, in the product's own path)."""
    num_steps: int
    max_seq_len: int
    learning_rate: float = 2e-4
    gradient_checkpointing: bool = False
    """Of the product's own path; its peers have their own ways."""
    num_ranks: int = 1
    zero_stage: Literal[0, 1, 2, 3] = 0
    """Ranks and ZeRO are of the product's own path; each peer is one process with all cores."""

    @property
    def is_own(self) -> bool:
        """Whether the arm is the product's own path."""
        return self.arm.startswith("raftline")

    @property
    def num_processes(self) -> int:
        """That share the cores."""
        return self.num_ranks if self.is_own else 1
