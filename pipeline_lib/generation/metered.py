"""A teacher whose every word is kept as soon as it is written, counted, and paid for once.

Before anything is asked it is looked up in the store, so a run that was killed, started again, asks
only for the rest, and the teacher is not even opened when nothing is missing. Completions are kept
in the groups in which the teacher delivers them: the rest falls into the same batches of a local
model as without the kill, and the dataset comes out the same to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from pipeline_lib.config import BudgetConfig, PriceConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import (
    Completion,
    GenerationParams,
    Prompt,
    Score,
    ScoringGenerator,
    TextGenerator,
)
from pipeline_lib.generation.budget import Budget
from pipeline_lib.generation.completion_segments import Result, completion_key, score_key
from pipeline_lib.generation.completion_store import CompletionStore
from pipeline_lib.generation.ledger import Ledger

OnProgress = Callable[[str, int, int], None]
"""Told what is being done and how far it is, for example ("asking", 32, 96)."""

_SCORE_SLICE = 128
"""Targets scored between two savings."""
_REFUSED = Completion("", 0, 0, "budget")

_R = TypeVar("_R", Completion, Score)


class MeteredTeacher:
    """Generates and scores through a teacher that is opened when first needed.

    What counts against the budget is what this object was asked for, stored or not: a run that
    finds everything in the store ends where the run did that paid for it. Scores are made by models
    in process and cost nothing.

    Args:
        open_teacher: opens the teacher.
        identity: of its model; part of every key.
        store: where results are kept.
        prices: of its tokens.
        budget: where to stop.
        on_progress: see `OnProgress`.

    Raises:
        ConfigError: the budget cannot be kept; see `Budget`.
    """

    def __init__(
        self,
        open_teacher: Callable[[], TextGenerator],
        identity: str,
        store: CompletionStore,
        prices: PriceConfig,
        budget: BudgetConfig,
        on_progress: OnProgress = lambda _step, _done, _total: None,
    ) -> None:
        self._open_teacher = open_teacher
        self._identity = identity
        self._store = store
        self._on_progress = on_progress
        self._teacher: TextGenerator | None = None
        self._prices = prices
        self.start_over(budget)

    def start_over(self, budget: BudgetConfig) -> None:
        """Count everything anew that is asked for from now on, in a new ledger and budget."""
        self._counted: set[bytes] = set()
        self._is_exhausted = False
        self.budget = Budget(budget, self._prices)
        self.ledger = Ledger(self._prices)

    @property
    def model_identity(self) -> str:
        """The teacher's."""
        return self._identity

    @property
    def is_exhausted(self) -> bool:
        """Whether the budget is spent, so that nothing more is asked."""
        return self._is_exhausted

    @property
    def spent_share(self) -> float:
        """How much of the budget is spent, from 0 to 1; 0 where there is none."""
        return self.budget.spent_share

    def generate(
        self, prompts: Sequence[Prompt], params: GenerationParams, *, step: str
    ) -> list[Completion]:
        """One completion per prompt, in order; equal prompts are asked once.

        Where the budget does not reach, a completion has `finish_reason` `budget`; what was paid
        for before is still given.

        Args:
            prompts: what to continue.
            params: how; part of the key under which completions are kept.
            step: what is being done, for the ledger and the progress.

        Raises:
            GenerationError: the teacher failed; what it delivered before is kept.
            StoreError: what it delivered cannot be kept.
        """
        keys = [completion_key(self._identity, prompt, params) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        paid = [key for key in distinct if bytes.fromhex(key) in self._counted]
        results = self._ask({key: distinct[key] for key in paid}, params, step)
        rest = [key for key in distinct if key not in results]
        while rest and not self._is_exhausted:
            reach = self.budget.reach([distinct[key] for key in rest], params)
            self._is_exhausted = reach == 0
            part, rest = rest[:reach], rest[reach:]
            results |= self._ask({key: distinct[key] for key in part}, params, step)
        return [results.get(key, _REFUSED) for key in keys]

    def score(self, prompts: Sequence[Prompt], targets: Sequence[str], *, step: str) -> list[Score]:
        """The score of each target after its prompt, without an end-of-turn token.

        Raises:
            ConfigError: the teacher cannot score.
        """
        pairs = list(zip(prompts, targets, strict=True))
        keys = [score_key(self._identity, prompt, target) for prompt, target in pairs]
        distinct = dict(zip(keys, pairs, strict=True))
        results = self._stored(list(distinct), Score)
        missing = {key: pair for key, pair in distinct.items() if key not in results}
        if missing:
            scorer = self._open_scorer()
            with self._waiting(step):
                results |= self._score(scorer, missing, step)
        self._count(results, distinct, missing, step)
        return [results[key] for key in keys]

    def _score(
        self, scorer: ScoringGenerator, pairs: Mapping[str, tuple[Prompt, str]], step: str
    ) -> dict[str, Score]:
        """New scores by key, saved slice by slice."""
        results: dict[str, Score] = {}
        keys = list(pairs)
        for start in range(0, len(keys), _SCORE_SLICE):
            part = keys[start : start + _SCORE_SLICE]
            prompts, targets = zip(*(pairs[key] for key in part), strict=True)
            scores = scorer.score(prompts, targets, with_end=False)
            new = dict(zip(part, scores, strict=True))
            self._store.add(new)
            results |= new
            self._on_progress(step, len(results), len(keys))
        return results

    def _ask(
        self, prompts: Mapping[str, Prompt], params: GenerationParams, step: str
    ) -> dict[str, Completion]:
        """Completions by key: stored ones, and new ones for the rest, all of them counted."""
        results = self._stored(list(prompts), Completion)
        missing = [key for key in prompts if key not in results]
        num_stored = len(results)
        clock = _Clock()

        def keep(indices: Sequence[int], completions: Sequence[Completion]) -> None:
            timed = clock.timed(completions)
            new = {missing[i]: each for i, each in zip(indices, timed, strict=True)}
            self._store.add(new)
            results.update(new)
            self._on_progress(step, len(results) - num_stored, len(missing))

        if missing:
            teacher = self._open()
            with self._waiting(step):
                clock.start()
                teacher.generate([prompts[key] for key in missing], params, on_completed=keep)
        self._count(results, prompts, missing, step)
        return results

    def _stored(self, keys: Sequence[str], kind: type[_R]) -> dict[str, _R]:
        found = self._store.get_many(keys)
        return {key: result for key, result in found.items() if isinstance(result, kind)}

    def _count(
        self, results: Mapping[str, Result], keys: Iterable[str], new: Iterable[str], step: str
    ) -> None:
        """Count each result the first time that it is asked for."""
        is_new = set(new)
        for key in keys:
            mark = bytes.fromhex(key)
            if mark in self._counted:
                continue
            self._counted.add(mark)
            result = results[key]
            self.ledger.count(step, self._identity, result, is_new=key in is_new)
            if isinstance(result, Completion):
                self.budget.spend(result)

    @contextmanager
    def _waiting(self, step: str) -> Iterator[None]:
        """Measure a time of waiting for the teacher, and see to it that nothing of it is lost."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self.ledger.line(step, self._identity).waiting_seconds += seconds
            self._store.flush()

    def _open(self) -> TextGenerator:
        if self._teacher is None:
            self._teacher = self._open_teacher()
        return self._teacher

    def _open_scorer(self) -> ScoringGenerator:
        teacher = self._open()
        if not isinstance(teacher, ScoringGenerator):
            raise ConfigError(
                f"The teacher {self._identity} cannot score answers",
                hint="A writer of kind 'extractive' needs that; use a local teacher, or set "
                "teacher.writer to 'chat'.",
            )
        return teacher


class _Clock:
    """Says how long completions took where the teacher does not: each its share of its group."""

    def __init__(self) -> None:
        self._last = 0.0

    def start(self) -> None:
        self._last = time.monotonic()

    def timed(self, completions: Sequence[Completion]) -> list[Completion]:
        """The completions, those without a time with one."""
        now = time.monotonic()
        share = (now - self._last) / max(1, len(completions))
        self._last = now
        return [each if each.seconds else replace(each, seconds=share) for each in completions]
