"""From a few topics to a whole run: how much a synthesis will take, with intervals.

A run asks about topics in rounds until it has its rows, so the number of topics depends on the
share of them that becomes rows. Both that share and what a topic costs are means over a sample, and
the intervals come from resampling its topics (percentile bootstrap, Efron 1979). They say how far
the sample can be trusted, not what a server under load will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline_lib.raft.rounds import affordable_topics, first_round_topics, topics_needed

Floats = NDArray[np.float64]

_NUM_RESAMPLES = 1_000
_PERCENTILES = (2.5, 97.5)
_RULE_OF_THREE = 3.0
"""Nothing seen in n trials: the rate is below 3/n with 95% confidence (Hanley and others 1983)."""


class Quantity(BaseModel):
    """An expected number and its 95% interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run decides how many topics to ask about: in the rounds of `raft.rounds`."""

    rows_wanted: tuple[int, ...]
    """By split."""
    topics_per_row: float
    """What the writer expects."""
    max_topics: int
    """Where topics or candidates run out."""
    budget_per_topic: float = 0.0
    """Share of the budget that a topic takes; 0 without a budget."""

    @property
    def num_rows_wanted(self) -> int:
        """In all splits."""
        return sum(self.rows_wanted)

    def num_topics(self, rows_per_topic: float) -> int:
        """Topics that a run asks about if so many rows come of one.

        Example: 10 rows wanted, 2 topics a row, 0.25 rows of a topic: rounds of 20, 14 and 5 give
        39 topics.
        """
        num_topics = 0
        for wanted in self.rows_wanted:
            num_topics += self._of_split(wanted, rows_per_topic, self.max_topics - num_topics)
        return num_topics

    def _of_split(self, wanted: int, rows_per_topic: float, available: int) -> int:
        made, asked = 0.0, 0
        limit = first_round_topics(is_limited=self.budget_per_topic > 0)
        while wanted - made >= 0.5 and asked < available:
            needed = topics_needed(wanted - made, made, asked, self.topics_per_row)
            asked += min(needed, limit, available - asked)
            made = asked * rows_per_topic
            limit = self._next_limit(asked, wanted / self.num_rows_wanted)
        return asked

    def _next_limit(self, asked: int, budget_share: float) -> int:
        """Of a round; what a budget does not reach for is estimated as if there were none."""
        left = budget_share - asked * self.budget_per_topic
        if not self.budget_per_topic or left <= 0:
            return first_round_topics(is_limited=False)
        return affordable_topics(left, self.budget_per_topic)


@dataclass(frozen=True)
class Sample:
    """What came of some topics."""

    rows: Floats
    """Rows of each topic, shape (topics,)."""
    measures: Mapping[str, Floats]
    """By name, what each topic took; every array of shape (topics,)."""
    fixed: Mapping[str, float]
    """By the same names, what a run takes once, however many topics there are."""

    @property
    def num_topics(self) -> int:
        """How many topics."""
        return len(self.rows)


def extrapolate(sample: Sample, plan: Plan, *, seed: int) -> dict[str, Quantity]:
    """What a whole run comes to: `topics`, `rows`, and each measure of the sample.

    Args:
        sample: at least one topic.
        plan: of the run.
        seed: of the resampling.
    """
    weights = _resampling_weights(sample.num_topics, seed)
    rates = weights @ sample.rows
    num_topics = np.array([plan.num_topics(rate) for rate in rates], dtype=np.float64)
    found = {
        "topics": _quantity(num_topics),
        "rows": _rows(sample, plan, num_topics, rates),
    }
    for name, values in sample.measures.items():
        found[name] = _quantity(sample.fixed.get(name, 0.0) + num_topics * (weights @ values))
    return found


def _resampling_weights(num_topics: int, seed: int) -> Floats:
    """Shares of the topics: first the sample as it is, then resamples of it."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_topics, np.full(num_topics, 1 / num_topics), size=_NUM_RESAMPLES)
    weights: Floats = np.vstack([np.ones(num_topics), drawn]) / num_topics
    return weights


def _rows(sample: Sample, plan: Plan, num_topics: Floats, rates: Floats) -> Quantity:
    wanted = float(plan.num_rows_wanted)
    quantity = _quantity(np.minimum(wanted, num_topics * rates))
    if sample.rows.any():
        return quantity
    # No resample of a sample without rows has one, which is no certainty that none will come.
    highest = plan.max_topics * min(1.0, _RULE_OF_THREE / sample.num_topics)
    return quantity.model_copy(update={"high": min(wanted, highest)})


def _quantity(samples: Floats) -> Quantity:
    """The first of the samples, with the interval of all of them."""
    low, high = np.percentile(samples, _PERCENTILES)
    value = float(samples[0])
    return Quantity(value=value, low=min(value, float(low)), high=max(value, float(high)))
