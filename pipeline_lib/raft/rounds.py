"""Rows that a teacher invents: ask, check, search, answer, build contexts, until enough are kept.

Each split draws topics from its own documents, in an order set by the seed. Splits are filled
together, in rounds, so that batches are large: a round asks about as many topics as the rows still
missing should take, by what the rounds before have brought, and never about more than fit into
memory. The first, when nobody knows what will come, asks about half. Where there is a budget,
rounds are small, so that it ends with finished rows and not with a heap of questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline_lib.raft.candidates import Candidate, Topic
from pipeline_lib.raft.rows import RaftRow, Split

if TYPE_CHECKING:
    from pipeline_lib.raft.synthesis import Synthesis

_ROUND_TOPICS = 2048
"""Topics of one round at most: some ten megabytes of candidates with what retrieval finds."""
_FIRST_TOPICS = 16
"""Topics of the first round under a budget, when nobody knows yet what a topic costs."""
_SMALL_ROUND = 64
"""So many topics are not worth two rounds."""
_PRIOR_TOPICS = 16
"""How many topics the writer's own expectation of rows per topic weighs."""
_ROUND_SHARE = 0.25
"""Of the budget that is left, what a round may be expected to spend."""


def topics_needed(missing: float, made: float, asked: int, topics_per_row: float) -> int:
    """How many topics the missing rows of a split should take; of the first round, about half.

    Args:
        missing: rows.
        made: rows, by the rounds before.
        asked: topics that those asked about.
        topics_per_row: what the writer expects.
    """
    expected = _PRIOR_TOPICS / topics_per_row
    rows_per_topic = (made + expected) / (asked + _PRIOR_TOPICS)
    count = math.ceil(missing / rows_per_topic)
    return math.ceil(count / 2) if not asked and count > _SMALL_ROUND else count


def first_round_topics(*, is_limited: bool) -> int:
    """How many topics the first round may ask about, with a budget or without."""
    return _FIRST_TOPICS if is_limited else _ROUND_TOPICS


def affordable_topics(left: float, share_per_topic: float) -> int:
    """How many topics the next round may ask about: one at least.

    Args:
        left: share of the budget that may still be spent.
        share_per_topic: what a topic takes of the budget; above 0.
    """
    return min(_ROUND_TOPICS, max(1, int(_ROUND_SHARE * left / share_per_topic)))


class Rounds:
    """The search for rows.

    Args:
        parts: what makes and checks candidates and rows.
        queues: topics of each split, in the order in which they are to be asked about.
        wanted: rows still to be made, by split.
        max_spent_share: of the budget, where to stop.
    """

    def __init__(
        self,
        parts: Synthesis,
        queues: Mapping[Split, Iterator[Topic]],
        wanted: Mapping[Split, int],
        *,
        max_spent_share: float = 1.0,
    ) -> None:
        self._parts = parts
        self._queues = queues
        self._wanted = wanted
        self._max_spent_share = max_spent_share
        self._made: dict[Split, int] = dict.fromkeys(wanted, 0)
        self._asked: dict[Split, int] = dict.fromkeys(wanted, 0)
        limit = parts.config.max_candidates_per_question
        self._candidates_left = {split: count * limit for split, count in wanted.items()}
        self._held_back: dict[Split, Topic] = {}
        budget = parts.config.budget
        is_limited = budget.max_tokens is not None or budget.max_cost is not None
        self._round_topics = first_round_topics(is_limited=is_limited)

    def run(self) -> None:
        """Make rows until all wanted are there, topics or candidates run out, or the budget does.

        Every row goes to `Synthesis.keep` as it is finished.
        """
        teacher = self._parts.teacher
        while not teacher.is_exhausted and teacher.spent_share < self._max_spent_share:
            before = teacher.spent_share
            topics = self._draw()
            if not topics:
                return
            self._round(topics)
            self._resize((teacher.spent_share - before) / len(topics))

    def _resize(self, share_per_topic: float) -> None:
        """Fit the next round into what is left of the budget."""
        if share_per_topic > 0:
            left = self._max_spent_share - self._parts.teacher.spent_share
            self._round_topics = affordable_topics(left, share_per_topic)

    def _draw(self) -> list[Topic]:
        """The next round's topics, as far as queues and bounds on candidates reach."""
        needed = {split: self._needed(split) for split in self._wanted}
        scale = min(1.0, self._round_topics / max(1, sum(needed.values())))
        drawn: list[Topic] = []
        for split, count in needed.items():
            drawn += self._next(split, max(1, int(count * scale)) if count else 0)
        return drawn

    def _needed(self, split: Split) -> int:
        """How many topics the missing rows of a split should take."""
        made, asked = self._made[split], self._asked[split]
        per_row = self._parts.writer.topics_per_row
        return topics_needed(self._wanted[split] - made, made, asked, per_row)

    def _next(self, split: Split, count: int) -> Iterator[Topic]:
        for _ in range(count):
            topic = self._held_back.pop(split, None) or next(self._queues[split], None)
            if topic is None:
                return
            cost = self._parts.writer.num_candidates(topic)
            if cost > self._candidates_left[split]:
                self._held_back[split] = topic
                return
            self._candidates_left[split] -= cost
            self._asked[split] += 1
            yield topic

    def _round(self, topics: Sequence[Topic]) -> None:
        parts = self._parts
        parts.rows.topics.add(topics)
        asked = parts.ask(topics)
        for candidate, row in parts.finish(asked):
            self._keep(candidate, row)

    def _keep(self, candidate: Candidate, row: RaftRow) -> None:
        parts, split = self._parts, row.split
        if self._made[split] >= self._wanted[split]:
            parts.reject(candidate, "wanted", "more_than_wanted", row.final_answer)
            return
        self._made[split] += 1
        parts.funnel.keep("wanted")
        parts.keep(row)
