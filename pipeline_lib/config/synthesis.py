"""How RAFT rows are made from a corpus."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import BUNDLED_LANGUAGE_MODEL, FrozenConfig, operational
from pipeline_lib.config.retrieval import RetrievalConfig


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
        80,
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
