"""Going through the steps of a synthesis with a sample, and measuring what each part of it takes.

The sample is asked in one go, as a run would do it. Then it is gone through once more, piece by
piece: that asks for nothing, as everything is in the store by then, but tells what each piece took.
What the first pass took beyond that (the calibration of a judge) a run takes once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from pipeline_lib.config import BudgetConfig, SynthesizeConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.ledger import Ledger
from pipeline_lib.generation.metered import MeteredTeacher
from pipeline_lib.raft.candidates import Candidate, Gate, Rejection, Topic
from pipeline_lib.raft.extrapolation import Plan, Sample
from pipeline_lib.raft.from_user import LocatedPair, UserRows
from pipeline_lib.raft.gates.duplicates import NewQuestion, NewReasoning
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.making import DatasetMaker
from pipeline_lib.raft.rows import Split
from pipeline_lib.raft.synthesis import Synthesis
from pipeline_lib.raft.user_pairs import UserPairs

_T = TypeVar("_T")
_Taken = dict[str, float]
"""By `<step>/<measure>`."""


class Trial(ABC, Generic[_T]):
    """A run that has begun; `T` is what it goes through one by one.

    Attributes:
        parts: the steps.
        sample: what is tried.
        num_carried: rows that the run takes over.
        funnel_steps: what became of the sample, once it was measured.
    """

    parts: Synthesis
    sample: Sequence[_T]
    num_carried: int
    funnel_steps: Sequence[dict[str, Any]] = ()

    @abstractmethod
    def go_through(self, items: Sequence[_T]) -> int:
        """Take some of the sample through all steps; the number of rows."""

    @abstractmethod
    def plan(self) -> Plan:
        """How many the run goes through, as far as that is known without counting them.

        Asked for when the sample was measured.
        """

    @abstractmethod
    def count(self, limit: int) -> int:
        """How many there are to go through; stops at a limit, and may be called once."""


class TopicTrial(Trial[Topic]):
    """The first topics of a run's queues, of each split in proportion to the rows it wants."""

    def __init__(self, maker: DatasetMaker, config: SynthesizeConfig, num_topics: int) -> None:
        self.parts = _repeatable(maker.parts())
        self._config = config
        beginning = maker.begin(self.parts)
        self._missing = {split: rows for split, rows in beginning.missing.items() if rows}
        self._queues = {split: beginning.queues[split] for split in self._missing}
        self.num_carried = self.parts.rows.num_rows
        shares = self._shares(num_topics)
        self.sample = [
            topic for split, queue in self._queues.items() for topic in islice(queue, shares[split])
        ]

    def go_through(self, items: Sequence[Topic]) -> int:
        """Ask about topics, answer, and build contexts."""
        return sum(1 for _ in self.parts.finish(self.parts.ask(items)))

    def plan(self) -> Plan:
        """Bounded by the candidates that the configuration allows."""
        writer = self.parts.writer
        each = np.mean([writer.num_candidates(topic) for topic in self.sample])
        allowed = sum(self._missing.values()) * self._config.max_candidates_per_question
        return Plan(
            rows_wanted=tuple(self._missing.values()),
            topics_per_row=writer.topics_per_row,
            max_topics=int(allowed / each),
            budget_per_topic=self.parts.teacher.spent_share / len(self.sample),
        )

    def count(self, limit: int) -> int:
        """Topics in the queues, those of the sample included."""
        num = len(self.sample)
        for queue in self._queues.values():
            num += sum(1 for _ in islice(queue, max(0, limit - num)))
        return num

    def _shares(self, num_topics: int) -> dict[Split, int]:
        """How many of the sample each split gives: one at least, the largest takes the rest."""
        total = sum(self._missing.values())
        shares = {
            split: max(1, round(num_topics * rows / total)) for split, rows in self._missing.items()
        }
        if shares:
            largest = max(shares, key=shares.__getitem__)
            shares[largest] = max(1, shares[largest] + num_topics - sum(shares.values()))
        return shares


class PairTrial(Trial[LocatedPair]):
    """Some of the user's pairs, drawn by hash."""

    def __init__(
        self, maker: DatasetMaker, config: SynthesizeConfig, pairs: UserPairs, num_pairs: int
    ) -> None:
        self.parts = maker.parts(is_user=True)
        beginning = maker.begin_with_pairs(pairs, self.parts)
        self._split_of: Mapping[str, Split] = beginning.plan.split_of
        new = [pair for pair in beginning.located if pair.row_id not in beginning.kept]
        self._num_new = len(new)
        self.num_carried = len(beginning.located) - len(new)
        drawn = sorted(new, key=lambda each: unit_interval(config.seed, "sample", each.row_id))
        self.sample = drawn[:num_pairs]

    def go_through(self, items: Sequence[LocatedPair]) -> int:
        """Have pairs explained, and build contexts."""
        before = self.parts.rows.num_rows
        UserRows(self.parts, {}).run(items, self._split_of)
        return self.parts.rows.num_rows - before

    def plan(self) -> Plan:
        """All pairs are gone through, whatever comes of them."""
        return Plan(rows_wanted=(self._num_new,), topics_per_row=1.0, max_topics=self._num_new)

    def count(self, limit: int) -> int:
        """Pairs whose rows are not taken over."""
        return min(limit, self._num_new)


def measure(
    trial: Trial[_T], teacher: MeteredTeacher, budget: BudgetConfig
) -> tuple[Sample, Ledger]:
    """What each part of the sample took, and the ledger of asking for it.

    The measures of the sample are named `<step>/<measure>`, by what `_taken` counts.

    Args:
        trial: with a sample that is not empty.
        teacher: the one that the trial asks.
        budget: the run's.

    Raises:
        ConfigError: the budget does not even reach for the sample.
    """
    trial.go_through(trial.sample)
    if teacher.is_exhausted:
        raise ConfigError(
            f"The budget ends within a sample of {len(trial.sample)} topics or pairs",
            hint="Raise budget.max_tokens or budget.max_cost, or take a smaller sample.",
        )
    asked = teacher.ledger
    steps = trial.parts.funnel.as_json(num_rows=0)["steps"]
    trial.funnel_steps = [step for step in steps if step["kept"] or step["dropped"]]
    teacher.start_over(budget)
    rows, taken, before = [], [], _Taken()
    for item in trial.sample:
        rows.append(trial.go_through([item]))
        now = _taken(teacher.ledger)
        taken.append({name: value - before.get(name, 0.0) for name, value in now.items()})
        before = now
    at_once = _taken(asked)
    names = list(dict.fromkeys([*at_once, *before]))
    measures = {name: np.array([each.get(name, 0.0) for each in taken]) for name in names}
    fixed = {name: max(0.0, at_once.get(name, 0.0) - before.get(name, 0.0)) for name in names}
    return Sample(np.array(rows, dtype=np.float64), measures, fixed), asked


def _taken(ledger: Ledger) -> _Taken:
    taken = _Taken()
    for line in ledger.lines:
        counted = {
            "requests": line.total.num_completions,
            "prompt_tokens": line.total.prompt_tokens,
            "cached_tokens": line.total.cached_tokens,
            "completion_tokens": line.total.completion_tokens,
            "scored_targets": line.num_scored_targets,
            "request_seconds": line.request_seconds,
            "cost": line.total.cost(ledger.prices),
        }
        taken |= {f"{line.step}/{name}": float(value) for name, value in counted.items()}
    return taken


class _SameVerdict:
    """A gate that remembers what it has said before, and says the same of a candidate again."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._said: dict[tuple[str, ...], Rejection | None] = {}
        self.step = gate.step

    def check(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """See `Gate`."""
        new = [each for each in candidates if _name(each) not in self._said]
        for candidate, verdict in zip(new, self._gate.check(new), strict=True):
            self._said.setdefault(_name(candidate), verdict)
        return [self._said[_name(each)] for each in candidates]


def _repeatable(parts: Synthesis) -> Synthesis:
    """The steps, but nothing that passes twice is new only once."""

    def same(gates: Sequence[Gate]) -> list[Gate]:
        is_forgetful = (NewQuestion, NewReasoning)
        return [_SameVerdict(each) if isinstance(each, is_forgetful) else each for each in gates]

    parts.question_gates = same(parts.question_gates)
    parts.answer_gates = same(parts.answer_gates)
    return parts


def _name(candidate: Candidate) -> tuple[str, ...]:
    return candidate.question, *(chunk.chunk_id for chunk in candidate.topic.chunks)
