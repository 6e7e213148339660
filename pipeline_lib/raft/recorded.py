"""A teacher whose every word is kept as soon as it is written, and counted.

Completions and scores are stored as partial work under a hash of model, prompt and parameters, in
the groups in which the teacher delivers them. A run that was killed, started again, finds them and
asks only for the rest; the teacher is not even opened when nothing is missing. Because local
batches are stored whole, the rest falls into the same batches as it would have without the kill,
and the dataset comes out the same to the last bit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import (
    Completion,
    GenerationParams,
    Prompt,
    Score,
    ScoringGenerator,
    TextGenerator,
)

_FLUSH_COUNT = 8
_FLUSH_SECONDS = 2.0
_SCORE_SLICE = 128
"""Targets scored between two savings."""
_COMPLETIONS = TypeAdapter(dict[str, Completion])
_SCORES = TypeAdapter(dict[str, Score])

_T = TypeVar("_T")


@dataclass
class Ledger:
    """What the words cost, those of an earlier, interrupted run included."""

    num_completions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_scored_targets: int = 0
    scored_tokens: int = 0
    num_reused: int = 0
    """Completions and scores that an earlier run had paid for."""
    teacher_seconds: float = 0.0
    """Time spent waiting for the teacher in this run."""

    def as_dict(self) -> dict[str, float]:
        """For a manifest."""
        return {field.name: float(getattr(self, field.name)) for field in fields(self)}


class RecordedTeacher:
    """Generates and scores through a teacher that is opened when first needed.

    Args:
        open_teacher: opens the teacher.
        identity: of its model; part of every key.
        partial: where results are kept.
        on_progress: told what is being done and how far it is, for example ("asking", 32, 96).
    """

    def __init__(
        self,
        open_teacher: Callable[[], TextGenerator],
        identity: str,
        partial: PartialWork,
        on_progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
    ) -> None:
        self._open_teacher = open_teacher
        self._identity = identity
        self._on_progress = on_progress
        self._teacher: TextGenerator | None = None
        self._completions: _Kept[Completion] = _Kept(partial, "completions/", _COMPLETIONS)
        self._scores: _Kept[Score] = _Kept(partial, "scores/", _SCORES)
        self._counted: set[str] = set()
        self.ledger = Ledger()

    @property
    def model_identity(self) -> str:
        """The teacher's."""
        return self._identity

    def generate(
        self, prompts: Sequence[Prompt], params: GenerationParams, *, what: str = "generating"
    ) -> list[Completion]:
        """One completion per prompt, in order; equal prompts are asked once."""
        keys = [self._key("generate", asdict(prompt), asdict(params)) for prompt in prompts]
        missing = {
            key: prompt
            for key, prompt in zip(keys, prompts, strict=True)
            if key not in self._completions.values
        }
        missing_keys = list(missing)
        done = 0

        def keep(indices: Sequence[int], completions: Sequence[Completion]) -> None:
            nonlocal done
            done += len(indices)
            self._completions.add([missing_keys[index] for index in indices], completions)
            self._on_progress(what, done, len(missing))

        if missing:
            started = time.monotonic()
            try:
                self._open().generate(list(missing.values()), params, on_completed=keep)
            finally:
                self._completions.flush()
                self.ledger.teacher_seconds += time.monotonic() - started
        results = [self._completions.values[key] for key in keys]
        for key, completion in zip(keys, results, strict=True):
            if self._count(key, is_new=key in missing):
                self.ledger.num_completions += 1
                self.ledger.prompt_tokens += completion.num_prompt_tokens
                self.ledger.completion_tokens += completion.num_completion_tokens
        return results

    def score(
        self, prompts: Sequence[Prompt], targets: Sequence[str], *, what: str = "scoring"
    ) -> list[Score]:
        """The score of each target after its prompt, without an end-of-turn token."""
        pairs = list(zip(prompts, targets, strict=True))
        keys = [self._key("score", asdict(prompt), target) for prompt, target in pairs]
        missing = {
            key: pair
            for key, pair in zip(keys, pairs, strict=True)
            if key not in self._scores.values
        }
        todo = list(missing.items())
        if todo:
            started = time.monotonic()
            for start in range(0, len(todo), _SCORE_SLICE):
                part = todo[start : start + _SCORE_SLICE]
                scores = self._open_scorer().score(
                    [prompt for _, (prompt, _) in part],
                    [target for _, (_, target) in part],
                    with_end=False,
                )
                self._scores.add([key for key, _ in part], scores)
                self._scores.flush()
                self._on_progress(what, start + len(part), len(todo))
            self.ledger.teacher_seconds += time.monotonic() - started
        results = [self._scores.values[key] for key in keys]
        for key, score in zip(keys, results, strict=True):
            if self._count(key, is_new=key in missing):
                self.ledger.num_scored_targets += 1
                self.ledger.scored_tokens += score.num_tokens
        return results

    def _count(self, key: str, *, is_new: bool) -> bool:
        """Whether a result is counted now: each is once."""
        if key in self._counted:
            return False
        self._counted.add(key)
        self.ledger.num_reused += not is_new
        return True

    def _key(self, *parts: object) -> str:
        return hashlib.sha256(canonical_json([self._identity, *parts])).hexdigest()[:32]

    def _open(self) -> TextGenerator:
        if self._teacher is None:
            self._teacher = self._open_teacher()
        return self._teacher

    def _open_scorer(self) -> ScoringGenerator:
        teacher = self._open()
        if not isinstance(teacher, ScoringGenerator):
            raise ConfigError(
                f"The teacher {self._identity} cannot score answers",
                hint="A teacher of kind 'local' must; set teacher.kind to 'endpoint' for chat "
                "models behind HTTP.",
            )
        return teacher


class _Kept(Generic[_T]):
    """Results by key, mirrored in partial work."""

    def __init__(
        self, partial: PartialWork, prefix: str, adapter: TypeAdapter[dict[str, _T]]
    ) -> None:
        self._partial = partial
        self._prefix = prefix
        self._adapter = adapter
        self._unsaved: dict[str, _T] = {}
        self._last_flush = time.monotonic()
        self.values: dict[str, _T] = {}
        for name in partial.keys(prefix):
            data = partial.get(name)
            if data is not None:
                self.values.update(adapter.validate_json(data))

    def add(self, keys: Sequence[str], results: Sequence[_T]) -> None:
        """Remember results; saved when enough or old enough."""
        group = dict(zip(keys, results, strict=True))
        self.values.update(group)
        self._unsaved.update(group)
        is_old = time.monotonic() - self._last_flush > _FLUSH_SECONDS
        if is_old or len(self._unsaved) >= _FLUSH_COUNT:
            self.flush()

    def flush(self) -> None:
        """Save what is not saved yet, as one object named after its first key."""
        if self._unsaved:
            name = f"{self._prefix}{next(iter(self._unsaved))}.json"
            self._partial.put(name, self._adapter.dump_json(self._unsaved))
            self._unsaved = {}
        self._last_flush = time.monotonic()
