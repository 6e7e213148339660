"""Intervals and tests: against scipy, analytic cases and exhaustive permutation."""

from __future__ import annotations

from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
from scipy import stats

from pipeline_lib.evaluation.metrics.generation import bleu_from_sums, bleu_statistics
from pipeline_lib.evaluation.statistics import (
    Resampling,
    compare,
    compare_columns,
    compare_means,
    estimate,
    estimate_columns,
    estimate_mean,
    holm_adjusted,
    ratio_of_sums,
)

RESAMPLING = Resampling(num_samples=10_000, confidence=0.95, seed=1)


def sample(seed: int, num: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).beta(2, 3, size=num)


def test_the_interval_of_a_mean_equals_scipys_percentile_bootstrap():
    values = sample(0)
    ours = estimate_mean(values, RESAMPLING)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=5
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.003)
    assert ours.high == pytest.approx(theirs.high, abs=0.003)


def test_the_interval_of_a_mean_approaches_the_normal_one():
    values = sample(0, 400)
    ours = estimate_mean(values, RESAMPLING)
    half_width = 1.96 * values.std() / 20
    assert ours.high - ours.low == pytest.approx(2 * half_width, rel=0.04)


def test_the_paired_interval_equals_scipys_paired_bootstrap():
    values, others = sample(1), sample(1) * 0.8 + sample(2) * 0.1
    ours = compare_means(values, others, RESAMPLING)
    theirs = stats.bootstrap(
        (values, others),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        n_resamples=10_000,
        method="percentile",
        random_state=5,
    ).confidence_interval
    assert ours.difference == pytest.approx(values.mean() - others.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.002)
    assert ours.high == pytest.approx(theirs.high, abs=0.002)


def test_pairing_finds_a_difference_that_unpaired_intervals_hide():
    values = sample(3)
    better = values + 0.01
    one, other = estimate_mean(values, RESAMPLING), estimate_mean(better, RESAMPLING)
    assert one.high > other.low
    assert compare_means(better, values, RESAMPLING).is_clear


def test_the_p_value_equals_the_exhaustive_sign_flip_test():
    gaps = np.array([0.3, 0.1, -0.2, 0.4, 0.25, 0.15, -0.05, 0.2])
    flipped = [abs((gaps * signs).mean()) for signs in product((1, -1), repeat=len(gaps))]
    exact = np.mean(np.array(flipped) >= abs(gaps.mean()) - 1e-12)
    ours = compare_means(gaps, np.zeros_like(gaps), RESAMPLING)
    assert ours.p_value == pytest.approx(exact, abs=0.01)


def test_equal_arms_differ_by_nothing_and_prove_nothing():
    values = sample(4)
    result = compare_means(values, values, RESAMPLING)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)
    assert not result.is_clear


def test_a_micro_average_is_resampled_by_its_sums():
    nll_and_tokens = np.array([[10.0, 5], [2.0, 4], [30.0, 10], [8.0, 8]])
    ours = estimate(nll_and_tokens, lambda sums: np.exp(ratio_of_sums(sums)), RESAMPLING)
    assert ours.mean == pytest.approx(np.exp(50 / 27))
    drawn = np.random.default_rng(9).integers(0, 4, size=(10_000, 4))
    slow = [np.exp(nll_and_tokens[d, 0].sum() / nll_and_tokens[d, 1].sum()) for d in drawn]
    assert ours.low == pytest.approx(np.quantile(slow, 0.025), rel=0.03)
    assert ours.high == pytest.approx(np.quantile(slow, 0.975), rel=0.03)


def test_corpus_bleu_of_two_arms_is_compared_by_its_sums():
    references = [f"the fox number {n} runs over the lazy dog" for n in range(12)]
    exact = np.array([bleu_statistics(r, r) for r in references], dtype=float)
    worse = np.array([bleu_statistics(r.replace("fox", "cat"), r) for r in references], dtype=float)
    quick = Resampling(num_samples=300)
    result = compare(exact, worse, bleu_from_sums, quick)
    assert result.difference == pytest.approx(
        100 - bleu_from_sums(worse.sum(axis=0, keepdims=True))[0]
    )
    assert result.is_clear
    assert result.p_value < 0.02


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    values = sample(5)
    again = estimate_mean(values, RESAMPLING)
    assert estimate_mean(values, RESAMPLING) == again
    assert estimate_mean(values, Resampling(seed=2)) != again


def test_higher_confidence_means_a_wider_interval():
    values = sample(6)
    narrow = estimate_mean(values, Resampling(confidence=0.8))
    wide = estimate_mean(values, Resampling(confidence=0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_resampling_in_blocks_covers_every_sample(monkeypatch):
    from pipeline_lib.evaluation import statistics

    monkeypatch.setattr(statistics, "_BLOCK_CELLS", 1000)
    blocks = list(statistics._bootstrap_weights(80, Resampling(num_samples=130)))
    assert [block.shape for block in blocks] == [(12, 80)] * 10 + [(10, 80)]
    assert all((block.sum(axis=1) == 80).all() for block in blocks)


def test_no_questions_and_unpaired_arms_are_refused():
    with pytest.raises(ValueError, match="no questions"):
        estimate_mean([], RESAMPLING)
    with pytest.raises(ValueError, match="not paired"):
        compare_means([1.0], [1.0, 2.0], RESAMPLING)


def test_many_metrics_at_once_are_each_what_they_are_alone() -> None:
    values = np.random.default_rng(5).random((40, 3))
    against = values * 0.9
    estimates = estimate_columns(values, RESAMPLING)
    differences = compare_columns(values, against, RESAMPLING)
    for column in range(3):
        alone = estimate_mean(values[:, column], RESAMPLING)
        assert astuple(estimates[column]) == pytest.approx(astuple(alone))
        paired = compare_means(values[:, column], against[:, column], RESAMPLING)
        assert astuple(differences[column]) == pytest.approx(astuple(paired))
    with pytest.raises(ValueError, match="no questions"):
        estimate_columns(values[:0], RESAMPLING)
    with pytest.raises(ValueError, match="not paired"):
        compare_columns(values, against[:, :2], RESAMPLING)


def test_holm_multiplies_by_what_is_left_and_never_falls_behind() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_adjusted([0.5, 0.9]) == [1.0, 1.0]
    assert holm_adjusted([]) == []
