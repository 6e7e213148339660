"""What a model is trained towards: one section for each objective."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline_lib.config.base import FrozenConfig
from pipeline_lib.config.shares import Shares

Objective = Literal["dapt", "sft", "dpo", "grpo"]
OBJECTIVES: tuple[Objective, ...] = ("dapt", "sft", "dpo", "grpo")


class ScheduleConfig(FrozenConfig):
    """How long to learn, and how fast."""

    num_epochs: float | None = Field(
        None,
        gt=0,
        title="Epochs",
        description="Passes over what is learned. Empty: one, for 'sft' three, and up to eight of "
        "fewer than 128 rows.",
    )
    max_steps: int = Field(
        -1, ge=-1, title="Most steps", description="Optimizer steps; -1: set by epochs."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        title="Learning rate",
        description="Its peak, after the warm-up. Empty: by objective, method and the base model's "
        "width; for 'sft' 1e-3 for LoRA on the bundled model, 2e-4 on 7 billion parameters, a "
        "tenth of it for method 'full'.",
    )
    warmup_fraction: float = Field(
        0.05,
        ge=0,
        le=1,
        title="Warm-up share of steps",
        description="The learning rate rises from 0 during these, then falls.",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", title="Schedule", description="How the learning rate falls after the warm-up."
    )
    weight_decay: float = Field(0.0, ge=0, lt=1, title="Weight decay", description="Of AdamW.")
    max_grad_norm: float = Field(
        1.0, gt=0, title="Largest gradient norm", description="Gradients are scaled down to it."
    )
    validate_every_steps: int | None = Field(
        None,
        ge=1,
        title="Validate every (steps)",
        description="Empty: at the start, with every checkpoint, and at the end.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        title="Patience",
        description="Validations without improvement after which training ends early; empty: "
        "never.",
    )
    select_best: bool = Field(
        False,
        title="Select the best",
        description="Export the checkpoint with the best validation instead of the last.",
    )


class PretrainingConfig(ScheduleConfig):
    """Domain-adaptive pre-training (Gururangan et al. 2020) on the corpus' plain text."""

    replay_path: str | None = Field(
        None,
        title="General text",
        description="A folder or file of general text (.txt, .jsonl with 'text', .parquet), "
        "mixed in against forgetting; also measured before and after.",
    )
    replay_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        title="Share of general text",
        description="Of all tokens trained on; needs replay_path.",
    )


class SupervisedConfig(ScheduleConfig):
    """Learning the targets of the dataset's rows."""

    task_weights: dict[str, float] = Field(
        default_factory=dict,
        title="Task weights",
        description="How much a target token of each task counts ('answer', 'relevance', "
        "'ranking', 'quotes', 'refusal', 'closed_book'); 1 where none is given, 0 leaves a task "
        "out.",
    )
    best_by: Literal["loss", "quote_rate", "answer_f1"] = Field(
        "loss",
        title="Best by",
        description="What validation measures for patience and select_best: the loss, the share "
        "of quotes that are verbatim, or the token F1 of final answers (both need generation).",
    )
    num_generated: int = Field(
        16,
        ge=1,
        le=1000,
        title="Questions per validation",
        description="Answered at each validation when best_by is not 'loss'.",
    )


class PreferenceTrainingConfig(ScheduleConfig):
    """Direct preference optimization (Rafailov et al. 2023) on verified and misgrounded answers."""

    beta: float = Field(
        0.1,
        gt=0,
        title="Beta",
        description="How strongly the model is held to what it was before.",
    )
    loss: Literal["sigmoid", "hinge", "ipo"] = Field(
        "sigmoid", title="Loss", description="'sigmoid' is DPO itself."
    )


class ReinforcementConfig(ScheduleConfig):
    """Group-relative policy optimization (Shao et al. 2024) with rewards from verification."""

    num_generations: int = Field(
        8, ge=2, le=64, title="Answers per question", description="Compared with one another."
    )
    max_new_tokens: int = Field(
        256, ge=8, le=8192, title="Longest answer (tokens)", description="Cut off there."
    )
    temperature: float = Field(1.0, gt=0, le=2, title="Temperature", description="Of the answers.")
    beta: float = Field(
        0.0, ge=0, title="Beta", description="Weight of the divergence from the start; 0 is usual."
    )
    reward_weights: Shares = Field(
        default_factory=lambda: {
            "answer": 1.0,
            "verbatim": 1.0,
            "grounded": 1.0,
            "refusal": 1.0,
            "format": 0.5,
        },
        title="Reward weights",
        description="'answer': the final answer is right; 'verbatim': every quote is; 'grounded': "
        "it is the oracle's; 'refusal': exactly when the oracle is absent; 'format'.",
    )
    min_separation: float = Field(
        0.9,
        gt=0.5,
        le=1,
        title="Least separation",
        description="Share of pairs of a reference and a spoilt answer that a reward must order "
        "rightly on rows of the dataset; else the run is refused.",
    )
