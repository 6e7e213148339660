"""How models are compared, and when one is promoted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from pipeline_lib.config.base import BootstrapSamples, Confidence, FrozenConfig, operational
from pipeline_lib.config.retrieval import RetrievalConfig


class EvaluateConfig(FrozenConfig):
    """Base and fine-tuned model on the same questions with the same retrieved context."""

    split: Literal["test", "validation"] = Field(
        "test", title="Split", description="Which held-out questions are asked."
    )
    max_questions: int = Field(
        64, ge=1, title="Most questions", description="The first by row id, so runs compare."
    )
    context_size: int = Field(
        3, ge=1, le=50, title="Passages per question", description="Top of the retrieval."
    )
    cutoffs: tuple[PositiveInt, ...] = Field(
        (1, 3, 5, 10),
        min_length=1,
        title="Retrieval cutoffs (K)",
        description="Recall, precision, MRR and nDCG are measured at each.",
    )
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig, title="Retrieval")
    max_new_tokens: int = Field(
        128, ge=1, title="Longest answer (tokens)", description="Answers are cut off there."
    )
    batch_size: int = operational(
        16,
        ge=1,
        title="Prompts per batch",
        description="More is faster and takes more memory; changes no result.",
    )
    num_bootstrap_samples: BootstrapSamples = 10_000
    confidence: Confidence = 0.95
    seed: int = Field(42, ge=0, title="Seed", description="Of the resampling.")


class PromoteConfig(FrozenConfig):
    """When the candidate becomes champion."""

    metric: str = Field(
        "token_f1",
        title="Metric",
        description="A per-question metric of the evaluation, for example token_f1, "
        "exact_match, rouge_l, verbatim_quote_rate, oracle_citation_rate.",
    )
    min_improvement: float = Field(
        0.0,
        title="Least improvement",
        description="The lower bound of the paired interval of the difference must exceed this.",
    )
