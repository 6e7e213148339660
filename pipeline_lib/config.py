"""What a run should do: one frozen model per stage, no I/O, unknown fields refused.

The same models are the parameters of the Prefect flows, so titles, descriptions, units and bounds
here are what the UI's form shows. A field that cannot change a stage's output (it only makes the
work faster, or says where it runs) is declared with `operational()` and stays out of fingerprints.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

BUNDLED_EMBEDDING_MODEL = "bundled:all-MiniLM-L6-v2"
BUNDLED_LANGUAGE_MODEL = "bundled:SmolLM2-135M-Instruct"
SAMPLE_SOURCE = "sample:python-language-reference"

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
_OPERATIONAL = "operational"


def operational(default: Any, **kwargs: Any) -> Any:
    """A field that cannot change the output; left out of `FrozenConfig.output_config`."""
    return Field(default, json_schema_extra={_OPERATIONAL: True}, **kwargs)


class FrozenConfig(BaseModel):
    """Base of all configuration: immutable, keyword-only, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def output_config(self) -> dict[str, Any]:
        """The JSON-ready part of the configuration that can change the output."""
        payload: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get(_OPERATIONAL):
                continue
            value = getattr(self, name)
            if isinstance(value, FrozenConfig):
                payload[name] = value.output_config()
            else:
                payload[name] = self.model_dump(mode="json", include={name})[name]
        return payload


class ChunkConfig(FrozenConfig):
    """How documents are cut into chunks."""

    size_tokens: int = Field(
        160,
        gt=15,
        le=8192,
        title="Chunk size (tokens)",
        description="Most tokens per chunk, counted with the embedding model's tokenizer, "
        "without its special tokens.",
    )
    overlap_tokens: int = Field(
        0,
        ge=0,
        title="Chunk overlap (tokens)",
        description="Tokens shared by neighbouring chunks; smaller than the chunk size.",
    )

    @model_validator(mode="after")
    def _overlap_below_size(self) -> Self:
        if self.overlap_tokens >= self.size_tokens:
            raise ValueError(
                f"overlap_tokens ({self.overlap_tokens}) must be smaller than "
                f"size_tokens ({self.size_tokens})"
            )
        return self


class IngestConfig(FrozenConfig):
    """From sources to documents and chunks."""

    # The stage fingerprints the sources' contents, so where they lie may differ between machines.
    sources: tuple[str, ...] = operational(
        (SAMPLE_SOURCE,),
        min_length=1,
        title="Sources",
        description="Folders, files (.txt .md .rst .html .jsonl) or "
        f"'{SAMPLE_SOURCE}', the built-in sample. Paths are read on the worker.",
    )
    chunking: ChunkConfig = Field(default_factory=ChunkConfig, title="Chunking")
    embedding_model: str = Field(
        BUNDLED_EMBEDDING_MODEL,
        title="Embedding model",
        description="Its tokenizer measures chunks: 'bundled:…', a hub id, or a local folder.",
    )
    max_file_bytes: int = Field(
        50_000_000,
        gt=0,
        title="Largest file (bytes)",
        description="Larger files are dropped and counted.",
    )
    max_dropped_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Most inputs dropped (fraction)",
        description="The stage fails when a larger share of the inputs had to be dropped.",
    )


class IndexConfig(FrozenConfig):
    """From chunks to a searchable Qdrant collection."""

    embedding_model: str = Field(
        BUNDLED_EMBEDDING_MODEL,
        title="Embedding model",
        description="Dense encoder: 'bundled:…', a hub id, or a local folder.",
    )
    bm25_language: str = Field(
        "english",
        title="BM25 language",
        description="Stemmer and stop words of the sparse encoder.",
    )
    batch_tokens: int = operational(
        8192,
        gt=0,
        title="Tokens per batch",
        description="Texts are sorted by length and batched up to this many padded tokens.",
    )


class RetrievalConfig(FrozenConfig):
    """How a query finds chunks."""

    mode: Literal["hybrid", "dense", "sparse"] = Field(
        "hybrid", title="Mode", description="Which vectors answer a query."
    )
    fusion: Literal["dbsf", "rrf"] = Field(
        "dbsf",
        title="Fusion",
        description="How hybrid search joins its branches: distribution-based score fusion, "
        "or reciprocal rank fusion.",
    )
    rrf_k: int = Field(
        60,
        ge=1,
        title="RRF k",
        description="Rank constant of reciprocal rank fusion; ranks count from 1.",
    )
    prefetch_limit: int = Field(
        50, ge=1, le=10_000, title="Candidates per branch", description="Before fusion."
    )


class TeacherConfig(FrozenConfig):
    """Who writes questions and answers."""

    kind: Literal["local", "endpoint"] = Field(
        "local",
        title="Kind",
        description="'local': a causal LM in process; 'endpoint': the OpenAI-compatible server "
        "in RAFTLINE_TEACHER_BASE_URL.",
    )
    model: str = Field(
        BUNDLED_LANGUAGE_MODEL,
        title="Model",
        description="'bundled:…', a hub id or local folder; for an endpoint, the name it serves.",
    )
    temperature: float = Field(
        0.0,
        ge=0,
        le=2,
        title="Temperature",
        description="0 takes the likeliest words; higher values vary them.",
    )
    batch_size: int = operational(
        32,
        gt=0,
        title="Prompts per batch (local teacher)",
        description="More is faster and takes more memory; changes no result.",
    )
    concurrency: int = operational(
        8,
        gt=0,
        le=256,
        title="Requests in flight (endpoint)",
        description="How many prompts wait for the endpoint at once.",
    )
    timeout_seconds: float = operational(
        120.0,
        gt=0,
        title="Time limit per request (seconds)",
        description="Of the endpoint; a request that takes longer is tried again.",
    )


class SynthesizeConfig(FrozenConfig):
    """From a corpus to a RAFT dataset."""

    teacher: TeacherConfig = Field(default_factory=TeacherConfig, title="Teacher")
    qa_path: str | None = operational(
        None,
        title="Your questions (JSONL)",
        description="File with 'question', 'answer' and optionally 'document_id' per line. "
        "When given, the teacher writes only the reasoning.",
    )
    num_questions: int = Field(
        96,
        ge=3,
        title="Questions wanted",
        description="Synthesis stops when this many rows are kept or candidates run out.",
    )
    max_candidates_per_question: int = Field(
        10,
        ge=1,
        title="Candidates per wanted question",
        description="Upper bound on generated candidates: this times the questions wanted.",
    )
    min_rows: int = Field(
        12,
        ge=3,
        title="Fewest rows",
        description="The stage fails, with its yield funnel, when fewer rows survive.",
    )
    num_distractors: int = Field(
        2, ge=0, le=50, title="Distractors per row", description="Passages beside the oracle."
    )
    random_distractor_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Random share of distractors",
        description="The rest are the highest-ranked retrieved passages that are not the oracle.",
    )
    oracle_probability: float = Field(
        0.8,
        ge=0,
        le=1,
        title="Oracle probability",
        description="Chance that a training row's context holds the oracle passage "
        "(P in the RAFT paper). Validation and test rows always hold it.",
    )
    oracle_absent_target: Literal["refuse", "memorise"] = Field(
        "refuse",
        title="Target without oracle",
        description="What a row without its oracle teaches: to refuse, or to answer from memory "
        "(as in the RAFT paper, without quotes).",
    )
    validation_fraction: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        title="Validation share of documents",
        description="Whole documents, set aside before any question is written.",
    )
    test_fraction: float = Field(
        0.3,
        gt=0,
        lt=0.8,
        title="Test share of documents",
        description="Whole documents that training never sees; the evaluation asks about them.",
    )
    round_trip_top_k: int = Field(
        5,
        ge=1,
        title="Round trip: top k",
        description="A generated question is kept when retrieval finds its passage this high.",
    )
    min_quote_chars: int = Field(
        20,
        ge=1,
        title="Shortest quote (characters)",
        description="A shorter quote does not count as evidence.",
    )
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig, title="Retrieval")
    seed: int = Field(42, ge=0, title="Seed", description="Same seed, same rows.")

    @model_validator(mode="after")
    def _fractions_leave_training_documents(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 0.9:
            raise ValueError(
                f"validation_fraction ({self.validation_fraction}) + test_fraction "
                f"({self.test_fraction}) leave less than a tenth of the documents for training"
            )
        if self.min_rows > self.num_questions:
            raise ValueError(
                f"min_rows ({self.min_rows}) is larger than num_questions ({self.num_questions})"
            )
        return self


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
    num_bootstrap_samples: int = Field(
        10_000,
        ge=100,
        title="Bootstrap resamples",
        description="Of the questions, for every interval.",
    )
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        title="Confidence of intervals",
        description="0.95: an interval that holds the true value 19 times out of 20.",
    )
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
