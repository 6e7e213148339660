"""Which questions synthesis asks, and what a question and its answer must pass."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import FrozenConfig
from pipeline_lib.config.shares import Shares


class QuestionConfig(FrozenConfig):
    """Kinds and styles of questions."""

    kinds: Shares = Field(
        default={},
        title="Kinds",
        description="Kind to share: factual, how_why, comparison, multi_hop, unanswerable, or "
        "<kind> with a template ask-<kind>.jinja of yours in prompts_path. Shares are relative. "
        "Empty: what suits the teacher.",
    )
    styles: Shares = Field(
        default={},
        title="Styles",
        description="Style to share: plain, keyword, conversational, formal, or <style> with a "
        "template style-<style>.jinja of yours. Empty: all plain.",
    )
    per_passage: int = Field(
        2,
        ge=1,
        le=20,
        title="Questions per request",
        description="How many questions a chat teacher writes about one passage at a time.",
    )
    near_duplicate_threshold: float = Field(
        0.8,
        gt=0,
        le=1,
        title="Near-duplicate questions",
        description="Jaccard similarity of content words from which a question is dropped as "
        "asked before, anywhere in the dataset.",
    )


class JudgeConfig(FrozenConfig):
    """A model that grades rows by a rubric; trusted only after a calibration."""

    min_grade: int = Field(
        4, ge=1, le=5, title="Lowest grade kept", description="Of 1 to 5, for each criterion."
    )
    min_accuracy: float = Field(
        0.8,
        ge=0.5,
        le=1,
        title="Accuracy it must show",
        description="On good rows and on rows spoilt on purpose, half each, before it judges. A "
        "judge below it is not used, and the run says so.",
    )
    num_calibration_rows: int = Field(
        24, ge=8, le=500, title="Calibration rows", description="Good and spoilt ones together."
    )


class GateConfig(FrozenConfig):
    """What a candidate must pass. Every gate is counted, and rejects keep their reasons."""

    round_trip_top_k: int = Field(
        5,
        ge=0,
        title="Round trip: top k",
        description="A generated question is kept when retrieval finds its passages this high. "
        "0: off.",
    )
    min_agreement: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Round trip: agreement",
        description="The teacher answers the question again from the oracle alone; token F1 with "
        "the answer must reach this. 0: off. One more request per row.",
    )
    closed_book: Literal["off", "drop"] = Field(
        "off",
        title="Answerable without the document",
        description="'drop': rows whose question the teacher answers rightly without any "
        "document. One more request per row.",
    )
    consistency_samples: int = Field(
        0,
        ge=0,
        le=20,
        title="Consistency: samples",
        description="Answers sampled at temperature 0.7; 0: off.",
    )
    min_consistency: float = Field(
        0.6,
        ge=0,
        le=1,
        title="Consistency: agreement",
        description="Share of the samples that must agree with the answer.",
    )
    judge: JudgeConfig | None = Field(
        None, title="Judge", description="Grades by a rubric; empty: none."
    )
    min_quotes: int = Field(
        1, ge=0, le=20, title="Fewest quotes", description="Verified quotes per answer."
    )
    min_quote_chars: int = Field(
        20,
        ge=1,
        title="Shortest quote (characters)",
        description="A shorter quote does not count as evidence.",
    )
    min_grounded_share: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Grounded share",
        description="Of the final answer's content words, those that its oracle passages have.",
    )
    max_question_chars: int = Field(
        400, ge=20, title="Longest question (characters)", description="Longer ones are dropped."
    )
    max_answer_words: int = Field(
        80, ge=1, title="Longest final answer (words)", description="Longer ones are dropped."
    )
    max_reasoning_words: int = Field(
        400, ge=1, title="Longest reasoning (words)", description="Quotes included."
    )
    languages: tuple[str, ...] = Field(
        (),
        title="Languages",
        description="ISO 639-1 codes that question and answer may be in; texts too short to tell "
        "pass. Empty: any.",
    )
    personal_data: bool = Field(
        False,
        title="Refuse personal data",
        description="Drops rows whose question or answer holds e-mail addresses, phone or card "
        "numbers, keys and the like.",
    )
    toxicity: bool = Field(
        False,
        title="Refuse toxic language",
        description="Drops rows whose question or answer has words of a list (English), or of "
        "yours in prompts_path/toxic.txt.",
    )

    @model_validator(mode="after")
    def _languages_are_codes(self) -> Self:
        wrong = [code for code in self.languages if len(code) != 2 or not code.islower()]
        if wrong:
            raise ValueError(f"languages must be ISO 639-1 codes such as 'en', not {wrong}")
        return self
