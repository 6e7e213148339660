"""What stands in a row's context, and which rows are made beside it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import FrozenConfig
from pipeline_lib.config.shares import Shares, check_names

DISTRACTOR_ORIGINS = ("retrieved", "random", "same_document", "adversarial", "contradicting")
REJECTED_KINDS = ("distractor", "stitched", "misattributed", "unfounded")


class ContextConfig(FrozenConfig):
    """The passages of a row."""

    num_distractors: int = Field(
        2, ge=0, le=50, title="Distractors per row", description="Passages beside the oracle."
    )
    distractors: Shares = Field(
        default={"retrieved": 1, "random": 1},
        title="Kinds of distractors",
        description="Origin to share: 'retrieved' (highest-ranked passages that are not the "
        "oracle), 'random', 'same_document', 'adversarial' (the oracle with one fact changed), "
        "'contradicting' (written by a chat teacher). What one cannot fill, retrieved and then "
        "random ones do.",
    )
    oracle_probability: float = Field(
        0.8,
        ge=0,
        le=1,
        title="Oracle probability",
        description="Chance that a training row's context holds the oracle passages "
        "(P in the RAFT paper). Validation and test rows always hold them.",
    )
    refuse_share: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Refusals without oracle",
        description="Share of the rows without oracle that teach to refuse; the others teach to "
        "answer from memory (as in the RAFT paper, without quotes).",
    )
    order: Literal["shuffled", "oracle_first", "oracle_last"] = Field(
        "shuffled",
        title="Order",
        description="Where the oracle stands; 'shuffled' draws anew for every row.",
    )
    questions_per_context: int = Field(
        1,
        ge=1,
        le=16,
        title="Questions per context",
        description="Above 1, up to so many training questions about passages of one document "
        "share one context, in one order, so that training can compute it once.",
    )
    near_duplicate_threshold: float = Field(
        0.6,
        gt=0,
        le=1,
        title="Guard: near-duplicates of the oracle",
        description="Share of the shorter passage's word 5-grams from which a passage counts as "
        "the oracle's text again, and is no distractor.",
    )
    judge_distractors: bool = Field(
        False,
        title="Guard: ask the teacher",
        description="A chat teacher says of every retrieved or same-document distractor whether "
        "it answers the question; those that do are left out. One more request per passage.",
    )

    @model_validator(mode="after")
    def _distractors_are_known(self) -> Self:
        check_names(self.distractors, DISTRACTOR_ORIGINS, "distractors")
        return self


class TaskConfig(FrozenConfig):
    """Training tasks beside RAFT answers, made from the same rows without asking a teacher.

    A share is the number of such rows per RAFT row: 0.1 makes one of every ten.
    """

    relevance: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Relevance",
        description="Which of these passages answer the question?",
    )
    ranking: float = Field(
        0.0, ge=0, le=1, title="Ranking", description="Order the passages by relevance."
    )
    quotes: float = Field(
        0.0, ge=0, le=1, title="Quote extraction", description="Only the quotes, no answer."
    )
    refusal: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Refusal",
        description="The same question with a context that does not answer it.",
    )
    closed_book: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Closed book",
        description="The question without any passage, answered (domain-specific fine-tuning).",
    )
    pretraining: bool = Field(
        False,
        title="Plain text",
        description="Also writes the training documents' text, for domain-adaptive pre-training.",
    )


class PreferenceConfig(FrozenConfig):
    """Pairs of a verified and a faulty answer, for preference training."""

    share: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Pairs per row",
        description="Of the training and validation rows, those that get a pair; 0: none.",
    )
    rejected: Shares = Field(
        default={"distractor": 1, "stitched": 1, "misattributed": 1, "unfounded": 1},
        title="Faults",
        description="Fault to share: 'distractor' (grounded in a distractor), 'stitched' (a quote "
        "patched together), 'misattributed' (the wrong document cited), 'unfounded' (an answer "
        "where the context holds none).",
    )

    @model_validator(mode="after")
    def _faults_are_known(self) -> Self:
        check_names(self.rejected, REJECTED_KINDS, "faults")
        return self
