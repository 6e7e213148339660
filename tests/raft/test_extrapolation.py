"""From a sample of topics to a whole run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline_lib.config import BudgetConfig
from pipeline_lib.raft.extrapolation import Plan, Sample, extrapolate
from pipeline_lib.raft.rounds import Rounds


def plan(**changes: Any) -> Plan:
    values = {"rows_wanted": (100,), "topics_per_row": 2.0, "max_topics": 10_000}
    return Plan(**(values | changes))


def sample(rows: list[float], **measures: list[float]) -> Sample:
    arrays = {name: np.array(values) for name, values in measures.items()}
    return Sample(np.array(rows), arrays, {})


@pytest.mark.parametrize(
    ("rows_per_topic", "num_topics"),
    [
        (1.0, 20),  # the first round asks about what is missing, whatever comes of it
        (0.5, 20),
        (0.25, 39),  # 20, 14, 5
        (0.0, 100),  # until there are no more
    ],
)
def test_a_run_asks_in_rounds_until_it_has_its_rows(rows_per_topic: float, num_topics: int) -> None:
    small = plan(rows_wanted=(10,), max_topics=100)
    assert small.num_topics(rows_per_topic) == num_topics


def test_many_topics_are_asked_about_in_two_halves() -> None:
    assert plan(rows_wanted=(32,)).num_topics(1.0) == 64
    assert plan(rows_wanted=(33,)).num_topics(1.0) == 33
    assert plan(rows_wanted=(32, 33)).num_topics(1.0) == 64 + 33


def test_under_a_budget_the_first_round_is_small_and_later_ones_are_what_it_affords() -> None:
    assert plan(rows_wanted=(32,), budget_per_topic=1e-6).num_topics(1.0) == 16 + 22
    # Of a budget for 100 topics: 16, a quarter of what is left (21), and what is still needed.
    assert plan(rows_wanted=(40,), budget_per_topic=0.01).num_topics(1.0) == 16 + 21 + 4


def test_what_a_budget_does_not_reach_for_is_estimated_too() -> None:
    assert plan(budget_per_topic=0.1).num_topics(0.5) == pytest.approx(200, abs=5)


class Asked:
    """What `Rounds` needs of `Synthesis`: a row of every so many topics, at a price."""

    def __init__(self, rows_per_topic: float, topics_per_row: float, price: int) -> None:
        budget = BudgetConfig(max_tokens=1_000_000) if price else BudgetConfig()
        self.config = SimpleNamespace(max_candidates_per_question=50, budget=budget)
        self.teacher = SimpleNamespace(is_exhausted=False, spent_share=0.0)
        self.writer = SimpleNamespace(
            topics_per_row=topics_per_row, num_candidates=lambda _topic: 1
        )
        self.rows = SimpleNamespace(topics=SimpleNamespace(add=self.count))
        self.funnel = SimpleNamespace(keep=lambda _step: None)
        self.num_topics = 0
        self._rows_per_topic, self._price = rows_per_topic, price

    def count(self, topics: list[str]) -> None:
        self.num_topics += len(topics)
        self.teacher.spent_share += len(topics) * self._price / 1_000_000

    def ask(self, topics: list[str]) -> list[str]:
        return topics

    def finish(self, asked: list[str]) -> list[tuple[None, Any]]:
        before, number = self.num_topics - len(asked), self._rows_per_topic
        return [
            (None, SimpleNamespace(split=split, final_answer=""))
            for place, split in enumerate(asked, start=before)
            if int((place + 1) * number) > int(place * number)
        ]

    def keep(self, _row: Any) -> None:
        pass

    def reject(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("price", [0, 20, 300])
@pytest.mark.parametrize("topics_per_row", [0.75, 3.0])
@pytest.mark.parametrize("rows_per_topic", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("wanted", [15, 400, 2000])
def test_the_plan_is_what_the_rounds_do(
    wanted: int, rows_per_topic: float, topics_per_row: float, price: int
) -> None:
    """As far as the budget reaches; without looking at how it is spread over the splits."""
    parts: Any = Asked(rows_per_topic, topics_per_row, price)
    queues: Any = {"train": iter(["train"] * 100_000)}
    Rounds(parts, queues, {"train": wanted}).run()
    planned = plan(
        rows_wanted=(wanted,),
        topics_per_row=topics_per_row,
        max_topics=50 * wanted,
        budget_per_topic=price / 1_000_000,
    ).num_topics(rows_per_topic)
    if parts.teacher.spent_share < 1:
        assert planned == pytest.approx(parts.num_topics, rel=0.05, abs=3)
    else:
        assert planned > parts.num_topics


def test_a_run_that_wants_nothing_takes_only_what_it_takes_once() -> None:
    found = extrapolate(
        Sample(np.ones(4), {"requests": np.full(4, 2.0)}, {"requests": 24.0}),
        plan(rows_wanted=()),
        seed=1,
    )
    assert found["topics"].value == found["rows"].value == 0
    assert found["requests"].value == found["requests"].low == found["requests"].high == 24


def test_measures_are_means_times_topics() -> None:
    # A row of every second topic: 200 topics; each takes 1 or 3 requests, 2 on average.
    found = extrapolate(
        sample([0, 1, 0, 1], requests=[1, 3, 1, 3]), plan(topics_per_row=1.0), seed=1
    )
    assert found["topics"].value == pytest.approx(200, abs=2)
    assert found["rows"].value == pytest.approx(100, abs=0.5)
    assert found["requests"].value == 2 * found["topics"].value
    assert found["requests"].low < found["requests"].value < found["requests"].high


def test_topics_that_are_all_alike_leave_no_doubt() -> None:
    found = extrapolate(sample([1] * 8, requests=[3] * 8), plan(), seed=1)
    assert found["requests"].low == found["requests"].value == found["requests"].high == 300


def test_a_larger_sample_is_surer() -> None:
    def width(times: int) -> float:
        found = extrapolate(
            sample([0, 1, 1, 1] * times, requests=[1, 3, 4, 2] * times), plan(), seed=1
        )
        return found["requests"].high - found["requests"].low

    assert width(16) < width(2) / 2


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    """Against simulation: topics that give a row with probability 0.4 and take 1 or 2 requests."""
    rng = np.random.default_rng(0)
    wide = plan(topics_per_row=1.0)
    truth = wide.num_topics(0.4) * 1.4
    covered = 0
    for trial in range(100):
        rows = (rng.random(48) < 0.4).astype(float)
        found = extrapolate(Sample(rows, {"requests": 1 + rows}, {}), wide, seed=trial)
        covered += found["requests"].low <= truth <= found["requests"].high
    assert 88 <= covered <= 100


def test_a_sample_without_rows_is_no_certainty_that_none_will_come() -> None:
    found = extrapolate(sample([0] * 30, requests=[1] * 30), plan(max_topics=500), seed=1)
    assert found["rows"].value == found["rows"].low == 0
    assert found["rows"].high == 50  # 3/30 of 500 topics
    assert found["topics"].value == 500


def test_equal_seeds_give_equal_intervals() -> None:
    topics = sample([0, 1, 1, 0, 1], requests=[1, 2, 3, 4, 5])
    assert extrapolate(topics, plan(), seed=7) == extrapolate(topics, plan(), seed=7)
    assert extrapolate(topics, plan(), seed=7) != extrapolate(topics, plan(), seed=8)
