"""An arm: one model that answers the questions. Runs it so that nothing is paid for twice.

Every finished batch is stored as partial work at once; a run that was killed asks the model only
for what is missing, and does not even load it when nothing is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.evaluation.records import ArmName
from pipeline_lib.generation.base import (
    Completion,
    GenerationParams,
    Prompt,
    Score,
    ScoringGenerator,
)
from pipeline_lib.progress import Progress, phase

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_COMPLETIONS = TypeAdapter(dict[str, Completion])
_SCORES = TypeAdapter(dict[str, Score])


@dataclass(frozen=True)
class Arm:
    """A model to evaluate."""

    name: ArmName
    model: str
    """The model's name or artifact reference, for people."""
    path: Path
    """Folder with weights and tokenizer."""
    identity: str
    """Changes whenever the model changes."""
    adapter: Path | None = None
    """To be loaded on top, where there are no merged weights."""


@dataclass(frozen=True)
class ArmTask:
    """What every arm does with one question."""

    row_id: str
    prompt: Prompt
    """The question with its retrieved passages; to be answered."""
    reference_prompt: Prompt
    """The question with the dataset's own passages; the reference target is scored after it."""
    reference_target: str


@dataclass(frozen=True)
class ArmOutput:
    """What one arm made of one question."""

    completion: Completion
    score: Score
    """Of the reference target."""


ModelOpener = Callable[[Arm, int], ScoringGenerator]
"""Loads an arm's model; the number is how many prompts it should take at a time."""


def open_local_model(arm: Arm, batch_size: int) -> ScoringGenerator:
    """The arm's model in this process."""
    from pipeline_lib.generation.local import LocalGenerator

    return LocalGenerator(arm.path, arm.adapter, batch_size=batch_size, identity=arm.identity)


def run_arm(
    arm: Arm,
    tasks: Sequence[ArmTask],
    *,
    params: GenerationParams,
    batch_size: int,
    open_model: ModelOpener,
    partial: PartialWork,
    progress: Progress,
) -> dict[str, ArmOutput]:
    """Answer every question and score every reference; by row id.

    The model is loaded at most once and let go before this returns.

    Raises:
        GenerationError: a prompt does not fit the model.
    """
    completions = _Kept(partial, f"answers/{arm.name}/", _COMPLETIONS)
    scores = _Kept(partial, f"scores/{arm.name}/", _SCORES)
    unanswered = [task for task in tasks if task.row_id not in completions.values]
    unscored = [task for task in tasks if task.row_id not in scores.values]
    if unanswered or unscored:
        logger.info(
            "%s (%s): %d answers and %d scores to go",
            arm.name,
            arm.model,
            len(unanswered),
            len(unscored),
        )
        model = open_model(arm, batch_size)
        with phase(progress, f"Answering: {arm.name}", len(tasks), "questions") as ticker:
            ticker.advance(len(tasks) - len(unanswered))
            _answer(model, unanswered, params, completions, ticker)
        with phase(progress, f"Scoring references: {arm.name}", len(tasks), "answers") as ticker:
            ticker.advance(len(tasks) - len(unscored))
            _score(model, unscored, batch_size, scores, ticker)
    return {
        task.row_id: ArmOutput(completions.values[task.row_id], scores.values[task.row_id])
        for task in tasks
    }


def _answer(
    model: ScoringGenerator,
    tasks: Sequence[ArmTask],
    params: GenerationParams,
    completions: _Kept[Completion],
    progress: Progress,
) -> None:
    def keep(indices: Sequence[int], batch: Sequence[Completion]) -> None:
        completions.keep([tasks[index].row_id for index in indices], batch)
        progress.advance(len(indices))

    if tasks:
        model.generate([task.prompt for task in tasks], params, on_completed=keep)


def _score(
    model: ScoringGenerator,
    tasks: Sequence[ArmTask],
    batch_size: int,
    scores: _Kept[Score],
    progress: Progress,
) -> None:
    by_length = sorted(tasks, key=lambda task: (-_num_chars(task), task.row_id))
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        found = model.score(
            [task.reference_prompt for task in batch], [task.reference_target for task in batch]
        )
        scores.keep([task.row_id for task in batch], found)
        progress.advance(len(batch))


def _num_chars(task: ArmTask) -> int:
    messages = task.reference_prompt.messages or ()
    return sum(len(content) for _role, content in messages) + len(task.reference_target)


class _Kept(Generic[_T]):
    """Results by row id, mirrored in partial work: one object per batch."""

    def __init__(
        self, partial: PartialWork, prefix: str, adapter: TypeAdapter[dict[str, _T]]
    ) -> None:
        self._partial = partial
        self._prefix = prefix
        self._adapter = adapter
        self.values: dict[str, _T] = {}
        for key in partial.keys(prefix):
            data = partial.get(key)
            if data is not None:
                self.values.update(adapter.validate_json(data))

    def keep(self, row_ids: Sequence[str], results: Sequence[_T]) -> None:
        """Store a batch; its object is named after its first row, which no other batch holds."""
        batch = dict(zip(row_ids, results, strict=True))
        self._partial.put(f"{self._prefix}{row_ids[0]}.json", self._adapter.dump_json(batch))
        self.values.update(batch)
