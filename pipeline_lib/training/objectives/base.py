"""What an objective is: it makes files of examples, and a trainer that learns from them.

The first half runs in the process that owns the training, once; the second in every rank. All else
(processes, checkpoints, events, watching, export) is the same for every objective.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline_lib.config import FinetuneConfig, Objective
from pipeline_lib.models import ResolvedModel
from pipeline_lib.progress import Progress

if TYPE_CHECKING:
    from pipeline_lib.training.loop import LoopMixin
    from pipeline_lib.training.plan import TrainingPlan


@dataclass(frozen=True, kw_only=True)
class PrepareJob:
    """What examples are made from."""

    config: FinetuneConfig
    """Of one stage: `config.stages` has one entry."""
    dataset: Path
    """The dataset artifact's folder."""
    base: ResolvedModel
    run_folder: Path
    """Where files of examples go."""
    num_ranks: int
    progress: Progress


@dataclass(kw_only=True)
class Prepared:
    """Files of examples, and what is to be said about them."""

    files: dict[str, Path]
    """What the trainer reads, by the name it knows it by ('train', 'validation', …)."""
    counts: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows left out, by reason."""
    details: dict[str, Any] = field(default_factory=dict)


class TrainingObjective(Protocol):
    """One way to learn."""

    name: Objective

    def check(self, config: FinetuneConfig, dataset: Path) -> None:
        """Whether a dataset's folder has what is learned from, without tokenizing it.

        Asked before the stages that come first are trained.

        Raises:
            ConfigError: `config`, of this stage, cannot be followed.
            InputError: there is nothing to learn from.
        """

    def prepare(self, job: PrepareJob) -> Prepared:
        """Write the files of examples.

        Raises:
            InputError: there is nothing to learn from.
        """

    def make_trainer(self, plan: TrainingPlan, model: Any, tokenizer: Any) -> LoopMixin:
        """The trainer of this rank; collective: every rank makes its own."""
