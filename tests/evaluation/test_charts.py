"""Chart geometry, small enough to check by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.evaluation.charts import DifferenceScale, nice_ticks, training_chart


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_enclose_the_values_and_stay_few(low, extent):
    ticks = nice_ticks(low, low + extent)
    slack = 1e-6 * max(1, abs(low), extent)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + extent - slack
    assert 2 <= len(ticks) <= 8


def test_ticks_of_a_single_value_still_make_an_axis():
    ticks = nice_ticks(3.0, 3.0)
    assert ticks[0] < 3.0 < ticks[-1]


def test_the_chart_separates_training_and_validation():
    chart = training_chart(
        [{"step": 1, "loss": 2.0}, {"step": 4, "loss": 1.0, "eval_loss": 1.5}, {"step": 4}]
    )
    assert [(c.name, [(p.step, p.value) for p in c.points]) for c in chart.curves] == [
        ("training", [(1, 2.0), (4, 1.0)]),
        ("validation", [(4, 1.5)]),
    ]
    last = chart.curves[0].points[-1]
    assert last.x == chart.width - chart.right
    assert last.y == chart.height - chart.bottom  # 1.0 is the lowest tick


def test_another_quantity_than_the_loss_can_be_drawn():
    log = [{"step": 1, "loss": 9.0, "reward": 0.25}, {"step": 2, "eval_reward": 0.5}]
    chart = training_chart(log, "reward")
    assert [(c.name, c.points[0].value) for c in chart.curves] == [
        ("training", 0.25),
        ("validation", 0.5),
    ]


def test_a_lower_loss_is_drawn_lower():
    first, last = (
        training_chart([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]).curves[0].points
    )
    assert first.y < last.y


def test_a_long_run_is_shown_by_means_of_neighbouring_steps():
    log = [{"step": step, "loss": float(step % 2)} for step in range(1, 4001)]
    (curve,) = training_chart(log).curves
    assert len(curve.points) == 400
    assert {point.value for point in curve.points} == {0.5}
    assert curve.points[-1].step == 4000


@pytest.mark.parametrize(
    "log", [[], [{"step": 1, "learning_rate": 0.1}], [{"step": 1, "loss": float("nan")}]]
)
def test_there_is_no_chart_without_a_finite_loss(log):
    assert training_chart(log) is None


def test_differences_are_placed_symmetrically_around_zero():
    scale = DifferenceScale.covering([-0.12, 0.31])
    assert scale.limit >= 0.31
    assert scale.place(0) == 50
    assert scale.place(scale.limit) == 100
    assert scale.place(0.1) - 50 == pytest.approx(50 - scale.place(-0.1))
