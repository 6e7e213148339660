"""How a dataset is made from a corpus."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import FrozenConfig, operational
from pipeline_lib.config.contexts import ContextConfig, PreferenceConfig, TaskConfig
from pipeline_lib.config.questions import GateConfig, QuestionConfig
from pipeline_lib.config.retrieval import RetrievalConfig
from pipeline_lib.config.teacher import BudgetConfig, TeacherConfig


class SplitConfig(FrozenConfig):
    """Which documents train, validate and test; decided before any question is written."""

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
    near_duplicate_threshold: float = Field(
        0.8,
        gt=0,
        le=1,
        title="Near-duplicate documents",
        description="Estimated Jaccard similarity of word 5-grams from which documents are kept in "
        "one split.",
    )
    decontaminate_paths: tuple[str, ...] = operational(
        (),
        title="Keep away from",
        description="Files (JSONL, CSV, text) whose questions and passages training must not see, "
        "such as benchmarks; their content counts, not their place.",
    )
    keep_evaluation_set: bool = Field(
        True,
        title="Keep the test questions",
        description="Take the test questions over from the dataset before, so that evaluations "
        "stay comparable while the corpus grows.",
    )

    @model_validator(mode="after")
    def _fractions_leave_training_documents(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 0.9:
            raise ValueError(
                f"validation_fraction ({self.validation_fraction}) + test_fraction "
                f"({self.test_fraction}) leave less than a tenth of the documents for training"
            )
        return self


class SynthesizeConfig(FrozenConfig):
    """From a corpus to a RAFT dataset."""

    teacher: TeacherConfig = Field(default_factory=TeacherConfig, title="Teacher")
    qa_path: str | None = operational(
        None,
        title="Your questions (JSONL)",
        description="File with 'question', 'answer' and optionally 'document_id' per line. "
        "When given, the teacher writes only the reasoning.",
    )
    prompts_path: str | None = operational(
        None,
        title="Your prompts (folder)",
        description="Templates (*.jinja) that replace those of the same name, or add kinds and "
        "styles of questions; their content counts, not their place.",
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
    questions: QuestionConfig = Field(default_factory=QuestionConfig, title="Questions")
    gates: GateConfig = Field(default_factory=GateConfig, title="Gates")
    contexts: ContextConfig = Field(default_factory=ContextConfig, title="Contexts")
    tasks: TaskConfig = Field(default_factory=TaskConfig, title="Further tasks")
    preferences: PreferenceConfig = Field(default_factory=PreferenceConfig, title="Preferences")
    split: SplitConfig = Field(default_factory=SplitConfig, title="Splits")
    budget: BudgetConfig = Field(default_factory=BudgetConfig, title="Budget")
    incremental: bool = Field(
        True,
        title="Build on the dataset before",
        description="Rows whose passages, prompts, teacher and seed are unchanged are taken over "
        "as they are; rows of changed or deleted text are retired and made again.",
    )
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig, title="Retrieval")
    seed: int = Field(42, ge=0, title="Seed", description="Same seed, same rows.")

    @model_validator(mode="after")
    def _enough_rows_are_wanted(self) -> Self:
        if self.min_rows > self.num_questions:
            raise ValueError(
                f"min_rows ({self.min_rows}) is larger than num_questions ({self.num_questions})"
            )
        return self
