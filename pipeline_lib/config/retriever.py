"""How the embedding model is fine-tuned on a dataset's questions, and when it goes into service."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from pipeline_lib.config.base import BootstrapSamples, Confidence, FrozenConfig, operational

RETRIEVER_SUFFIX = "-retriever"
"""Ends the names of tuned embedding models: that of the pipeline `docs` is `docs-retriever`."""
UNTUNED_SUFFIX = "-untuned"
"""Ends the name of a pipeline's index by the untuned model, where a tuned one may serve."""


class MiningConfig(FrozenConfig):
    """Which passages a question is told apart from, beside those of the other questions."""

    num_negatives: int = Field(
        1,
        ge=0,
        le=16,
        title="Hard negatives per question",
        description="Passages that search ranks high for the question though they do not answer "
        "it. Each costs about as much time as the question's own passage.",
    )
    first_rank: int = Field(
        1, ge=1, title="First rank", description="Negatives are looked for from this rank on."
    )
    last_rank: int = Field(
        30, ge=1, le=1000, title="Last rank", description="… down to this rank, the best first."
    )
    max_relative_score: float = Field(
        0.95,
        gt=0,
        title="Highest relative score",
        description="A negative must score below this share of what the question's own passage "
        "scores under the untuned model: what comes closer may well answer the question.",
    )
    max_overlap: float = Field(
        0.6,
        gt=0,
        le=1,
        title="Most text shared with the answering passage",
        description="Share of word 5-grams from which a passage counts as its near duplicate.",
    )

    @model_validator(mode="after")
    def _ranks_are_ordered(self) -> Self:
        if self.last_rank < self.first_rank:
            raise ValueError(
                f"last_rank ({self.last_rank}) must not be below first_rank ({self.first_rank})"
            )
        return self


class PromoteRetrieverConfig(FrozenConfig):
    """When the tuned embedding model takes the place of the untuned one."""

    search: Literal["dense", "hybrid"] = Field(
        "hybrid",
        title="Search",
        description="What has to get better: dense search alone, or hybrid search (dense and "
        "BM25 fused), which is what answers questions.",
    )
    metric: str = Field(
        "ndcg@10",
        pattern=r"^(recall|mrr|ndcg)@[1-9][0-9]*$",
        title="Metric",
        description="One that was measured, for example ndcg@10, mrr@10 or recall@5.",
    )
    min_improvement: float = Field(
        0.0,
        title="Least improvement",
        description="The lower bound of the paired interval of the difference must exceed this.",
    )
    not_below_bm25: bool = Field(
        True,
        title="Not below BM25",
        description="Refuse a model with which the search finds less than BM25 alone does.",
    )


class TuneRetrieverConfig(FrozenConfig):
    """From a dataset's questions and their passages to a fine-tuned embedding model."""

    mining: MiningConfig = Field(default_factory=MiningConfig, title="Hard negatives")
    num_epochs: int = Field(
        2,
        ge=1,
        le=100,
        title="Epochs",
        description="Passes over the training questions; the one that does best on the "
        "validation questions is kept.",
    )
    batch_size: int = Field(
        32,
        ge=2,
        le=4096,
        title="Batch",
        description="Questions per optimizer step; each is also told apart from the passages of "
        "all others in its batch.",
    )
    learning_rate: float = Field(
        2e-5, gt=0, lt=1, title="Learning rate", description="Its peak, after the warm-up."
    )
    warmup_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        title="Warm-up share of steps",
        description="The learning rate rises from 0 during these, then falls.",
    )
    scale: float = Field(
        20.0,
        gt=0,
        title="Scale",
        description="Cosine similarities are multiplied by it (the inverse temperature).",
    )
    matryoshka_dims: tuple[PositiveInt, ...] = Field(
        (),
        title="Matryoshka dimensions",
        description="Train the first so many dimensions of the vectors to do on their own too "
        "(Kusupati et al. 2022); empty: whole vectors only.",
    )
    min_pairs: int = Field(
        8,
        ge=2,
        title="Fewest training questions",
        description="The stage fails when fewer can be used.",
    )
    cutoffs: tuple[PositiveInt, ...] = Field(
        (1, 5, 10), min_length=1, title="Cutoffs (K)", description="Recall is measured at each."
    )
    num_bootstrap_samples: BootstrapSamples = 10_000
    confidence: Confidence = 0.95
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", title="Precision", description="'auto': bf16 where the hardware has it."
    )
    batch_tokens: int = operational(
        8192,
        gt=0,
        title="Tokens per batch (embedding)",
        description="Texts are sorted by length and embedded up to this many padded tokens.",
    )
    promotion: PromoteRetrieverConfig = operational(
        PromoteRetrieverConfig(),
        title="Promotion",
        description="When the tuned model becomes champion and the corpus is indexed with it.",
    )
    seed: int = Field(
        42, ge=0, title="Seed", description="Of the batches' order, dropout and resampling."
    )
