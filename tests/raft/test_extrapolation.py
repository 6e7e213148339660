"""From a sample of topics to a whole run."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline_lib.raft.extrapolation import Plan, Sample, extrapolate


def plan(**changes: float) -> Plan:
    values = {
        "num_rows_wanted": 100,
        "topics_per_row": 2.0,
        "max_topics": 10_000,
        "max_round_topics": 2048,
    }
    return Plan(**(values | changes))  # type: ignore[arg-type]


def sample(rows: list[float], **measures: list[float]) -> Sample:
    arrays = {name: np.array(values) for name, values in measures.items()}
    return Sample(np.array(rows), arrays, {})


@pytest.mark.parametrize(
    ("rows_per_topic", "num_topics"),
    [
        (1.0, 20),  # the first round asks about twice what is missing, whatever comes of it
        (0.5, 20),
        (0.25, 39),  # 20, 10, 5, 3, 1
        (0.0, 100),  # until there are no more
    ],
)
def test_a_run_asks_in_rounds_until_it_has_its_rows(rows_per_topic: float, num_topics: int) -> None:
    small = plan(num_rows_wanted=10, max_topics=100)
    assert small.num_topics(rows_per_topic) == num_topics


def test_small_rounds_overshoot_less() -> None:
    assert plan(max_round_topics=10).num_topics(1.0) == 100
    assert plan(max_round_topics=2048).num_topics(1.0) == 200


def test_a_run_that_wants_nothing_takes_only_what_it_takes_once() -> None:
    found = extrapolate(
        Sample(np.ones(4), {"requests": np.full(4, 2.0)}, {"requests": 24.0}),
        plan(num_rows_wanted=0),
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
    assert found["requests"].low == found["requests"].value == found["requests"].high == 600


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
