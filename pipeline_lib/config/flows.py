"""What the flows take that join several stages."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import MAX_NAME_LENGTH, NAME_PATTERN, FrozenConfig, operational
from pipeline_lib.config.corpus import IngestConfig
from pipeline_lib.config.evaluation import EvaluateConfig, PromoteConfig
from pipeline_lib.config.index import IndexConfig
from pipeline_lib.config.retrieval import RetrievalConfig
from pipeline_lib.config.retriever import RETRIEVER_SUFFIX, TuneRetrieverConfig
from pipeline_lib.config.synthesis import SynthesizeConfig
from pipeline_lib.config.training import FinetuneConfig


class FanOutConfig(FrozenConfig):
    """Where the shards of a corpus are parsed and embedded."""

    runner: Literal["none", "threads", "dask", "ray"] = Field(
        "none",
        title="Runner",
        description="'none': in the flow's own process. The others make one task of each shard: "
        "'threads' on this machine, 'dask' and 'ray' on a cluster (extras of raftline). Workers "
        "need the same RAFTLINE_ settings as the flow.",
    )
    address: str | None = Field(
        None,
        title="Cluster",
        description="Of a Dask scheduler ('tcp://…:8786') or a Ray head ('ray://…:10001'); "
        "empty: a cluster that is started on this machine for the run.",
    )
    num_workers: int = Field(
        2, ge=1, le=1024, title="Workers", description="Threads, or workers of the local cluster."
    )

    @model_validator(mode="after")
    def _address_needs_a_cluster(self) -> Self:
        if self.address and self.runner not in ("dask", "ray"):
            raise ValueError(
                f"address ({self.address!r}) names a cluster, but runner is {self.runner!r}: "
                "set it to 'dask' or 'ray'"
            )
        return self


class ApprovalConfig(FrozenConfig):
    """A person's approval of the dataset, before anything is trained on it."""

    timeout_hours: float = Field(
        72.0,
        gt=0,
        le=30 * 24,
        title="Longest wait (hours)",
        description="Then the run ends as failed; the next one asks again.",
    )
    num_rows: int = Field(
        20,
        ge=1,
        le=1000,
        title="Rows to look at",
        description="A random sample of the dataset, on a page that the run links to.",
    )


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
    approval: ApprovalConfig | None = operational(
        None,
        title="Approval",
        description="Pause before training until somebody has looked at the dataset and approves; "
        "a dataset that was approved before is not asked about again. Empty: go on.",
    )
    tune_retriever: TuneRetrieverConfig | None = Field(
        None,
        title="Tune the retriever",
        description="Fine-tune the embedding model on the dataset's questions too, and index with "
        "it when it is better; empty: leave it as it is.",
    )
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig, title="Fine-tune")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, title="Evaluate")
    promote: PromoteConfig = Field(default_factory=PromoteConfig, title="Promote")
    fan_out: FanOutConfig = operational(
        FanOutConfig(),
        title="Fan-out",
        description="Spread parsing and embedding over several workers.",
    )
    finetune_deployment: str | None = operational(
        None,
        title="Fine-tune deployment",
        description="Send training to another work pool as a run of this deployment, for example "
        "'finetune/finetune'; empty: train in this process's place.",
    )

    @model_validator(mode="after")
    def _one_embedding_model(self) -> Self:
        # Whether a tuned model has the tokenizer that measured the chunks shows when indexing.
        is_tuned = self.index.embedding_model.startswith("artifact:")
        if self.ingest.embedding_model != self.index.embedding_model and not is_tuned:
            raise ValueError(
                f"ingest.embedding_model ({self.ingest.embedding_model}) measures the chunks that "
                f"index.embedding_model ({self.index.embedding_model}) embeds: give both the same"
            )
        return self

    @model_validator(mode="after")
    def _name_leaves_room(self) -> Self:
        full = f"{self.name}{RETRIEVER_SUFFIX}"
        if self.tune_retriever is not None and len(full) > MAX_NAME_LENGTH:
            raise ValueError(
                f"the tuned retriever would be named {full}, but names have at most "
                f"{MAX_NAME_LENGTH} characters: give the pipeline a shorter name"
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
