"""What the flows take that join several stages."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import NAME_PATTERN, FrozenConfig, operational
from pipeline_lib.config.corpus import IngestConfig
from pipeline_lib.config.evaluation import EvaluateConfig, PromoteConfig
from pipeline_lib.config.retrieval import IndexConfig, RetrievalConfig
from pipeline_lib.config.synthesis import SynthesizeConfig
from pipeline_lib.config.training import FinetuneConfig


class PipelineConfig(FrozenConfig):
    """All stages in order, from sources to promotion."""

    name: str = Field(
        "demo",
        pattern=NAME_PATTERN,
        title="Name",
        description="Names every artifact of this pipeline: lower-case letters, digits, dashes.",
    )
    ingest: IngestConfig = Field(default_factory=IngestConfig, title="Ingest")
    index: IndexConfig = Field(default_factory=IndexConfig, title="Index")
    synthesize: SynthesizeConfig = Field(default_factory=SynthesizeConfig, title="Synthesize")
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig, title="Fine-tune")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, title="Evaluate")
    promote: PromoteConfig = Field(default_factory=PromoteConfig, title="Promote")
    finetune_deployment: str | None = operational(
        None,
        title="Fine-tune deployment",
        description="Send training to another work pool as a run of this deployment, for example "
        "'finetune/finetune'; empty: train in this process's place.",
    )

    @model_validator(mode="after")
    def _one_embedding_model(self) -> Self:
        if self.ingest.embedding_model != self.index.embedding_model:
            raise ValueError(
                f"ingest.embedding_model ({self.ingest.embedding_model}) measures the chunks that "
                f"index.embedding_model ({self.index.embedding_model}) embeds: give both the same"
            )
        return self


class AnswerConfig(FrozenConfig):
    """One question against the served corpus."""

    question: str = Field(
        min_length=3,
        max_length=4000,
        title="Question",
        description="In plain language, 3 to 4,000 characters.",
    )
    name: str = Field(
        "demo",
        pattern=NAME_PATTERN,
        title="Pipeline name",
        description="Whose corpus answers, by whose models.",
    )
    model: str = Field(
        "champion",
        title="Model",
        description="'champion', 'base', an alias, or a model artifact's fingerprint.",
    )
    context_size: int = Field(
        3, ge=1, le=50, title="Passages", description="How many the model reads."
    )
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig, title="Retrieval")
    max_new_tokens: int = Field(
        160,
        ge=1,
        le=4096,
        title="Longest answer (tokens)",
        description="The answer is cut off there.",
    )
