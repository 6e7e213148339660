"""Intervals and paired comparisons over questions, by resampling.

Every metric here is a function of sums over questions: a mean is (sum of values / number of
questions), corpus BLEU a function of summed n-gram counts, perplexity of summed log-likelihoods
and tokens. So a metric is given by its `statistics`, an array of shape (questions, sums), and a
`Statistic` from sums to values; resampling questions is then one matrix product.

Intervals are percentile bootstrap intervals (Efron 1979), p-values come from a paired permutation
test: under the null hypothesis the two arms' results of each question may be exchanged (Noreen
1989; for a mean this is the sign-flip test). Both treat the questions as a sample; they say
nothing about another seed of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""From sums, shape (samples, sums), to one value per sample, shape (samples,)."""

_BLOCK_CELLS = 4_000_000
"""Resampling weights held in memory at a time (32 MB)."""
_TIE_TOLERANCE = 1e-12
"""Permuted differences this close to the observed one count as equal (rounding)."""


@dataclass(frozen=True)
class Resampling:
    """How to resample; equal values give equal results."""

    num_samples: int = 10_000
    confidence: float = 0.95
    seed: int = 42


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval."""

    mean: float
    """The metric's value on all questions; for corpus-level metrics not a mean of questions."""
    low: float
    high: float
    num: int
    """Questions it rests on."""


@dataclass(frozen=True)
class Difference:
    """A paired comparison: one arm minus another on the same questions."""

    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided, of the paired permutation test; at least 1 / (num_samples + 1)."""
    num: int

    @property
    def is_clear(self) -> bool:
        """The interval excludes 0."""
        return self.low > 0 or self.high < 0


def mean_statistics(values: Sequence[float]) -> Floats:
    """The sums that `ratio_of_sums` turns into a mean: each value, and 1 for its question."""
    column = np.asarray(values, dtype=np.float64)
    return np.column_stack([column, np.ones_like(column)])


def ratio_of_sums(sums: Floats) -> Floats:
    """First sum divided by the second: a mean, or any micro-average."""
    ratios: Floats = sums[:, 0] / sums[:, 1]
    return ratios


def estimate(statistics: Floats, statistic: Statistic, resampling: Resampling) -> Estimate:
    """A metric's value and its bootstrap interval.

    Args:
        statistics: shape (questions, sums).
        statistic: the metric as a function of sums over questions.
        resampling: how often, at which confidence, from which seed.

    Raises:
        ValueError: there are no questions.
    """
    _require_questions(statistics)
    value = statistic(statistics.sum(axis=0, keepdims=True))[0]
    samples = np.concatenate(
        [
            statistic(weights @ statistics)
            for weights in _bootstrap_weights(len(statistics), resampling)
        ]
    )
    low, high = _percentile_interval(samples, resampling.confidence)
    return Estimate(float(value), low, high, len(statistics))


def compare(
    statistics: Floats, against: Floats, statistic: Statistic, resampling: Resampling
) -> Difference:
    """The paired difference between two arms, with its interval and p-value.

    Args:
        statistics: of the arm, shape (questions, sums).
        against: of the other arm, same shape, same questions in the same order.
        statistic: the metric as a function of sums over questions.
        resampling: how often, at which confidence, from which seed.

    Raises:
        ValueError: there are no questions, or the shapes differ.
    """
    _require_questions(statistics)
    if statistics.shape != against.shape:
        raise ValueError(f"not paired: {statistics.shape} against {against.shape}")

    def difference(left: Floats, right: Floats) -> Floats:
        result: Floats = statistic(left) - statistic(right)
        return result

    totals = statistics.sum(axis=0, keepdims=True), against.sum(axis=0, keepdims=True)
    observed = difference(*totals)[0]
    samples = np.concatenate(
        [
            difference(weights @ statistics, weights @ against)
            for weights in _bootstrap_weights(len(statistics), resampling)
        ]
    )
    gap = statistics - against
    exchanged = np.concatenate(
        [
            difference(totals[0] - swaps @ gap, totals[1] + swaps @ gap)
            for swaps in _exchanges(len(statistics), resampling)
        ]
    )
    num_as_extreme = int((np.abs(exchanged) >= abs(observed) - _TIE_TOLERANCE).sum())
    low, high = _percentile_interval(samples, resampling.confidence)
    return Difference(
        difference=float(observed),
        low=low,
        high=high,
        p_value=(num_as_extreme + 1) / (resampling.num_samples + 1),
        num=len(statistics),
    )


def estimate_mean(values: Sequence[float], resampling: Resampling) -> Estimate:
    """`estimate` for the mean of one value per question."""
    return estimate(mean_statistics(values), ratio_of_sums, resampling)


def compare_means(
    values: Sequence[float], against: Sequence[float], resampling: Resampling
) -> Difference:
    """`compare` for the means of one value per question."""
    return compare(mean_statistics(values), mean_statistics(against), ratio_of_sums, resampling)


def estimate_columns(values: Floats, resampling: Resampling) -> list[Estimate]:
    """`estimate_mean` for many metrics of the same questions at the price of one.

    Args:
        values: shape (questions, metrics).
        resampling: how often, at which confidence, from which seed.

    Raises:
        ValueError: there are no questions.
    """
    _require_questions(values)
    num = len(values)
    samples = np.concatenate(
        [weights @ values / num for weights in _bootstrap_weights(num, resampling)]
    )
    means = values.mean(axis=0)
    intervals = [_percentile_interval(column, resampling.confidence) for column in samples.T]
    return [
        Estimate(float(mean), low, high, num)
        for mean, (low, high) in zip(means, intervals, strict=True)
    ]


def compare_columns(values: Floats, against: Floats, resampling: Resampling) -> list[Difference]:
    """`compare_means` for many pairs on the same questions at the price of one.

    Args:
        values: shape (questions, pairs).
        against: of the other side, same shape, same questions in the same order.
        resampling: how often, at which confidence, from which seed.

    Raises:
        ValueError: there are no questions, or the shapes differ.
    """
    _require_questions(values)
    if values.shape != against.shape:
        raise ValueError(f"not paired: {values.shape} against {against.shape}")
    gaps, num = values - against, len(values)
    observed = gaps.mean(axis=0)
    samples = np.concatenate(
        [weights @ gaps / num for weights in _bootstrap_weights(num, resampling)]
    )
    num_as_extreme = np.zeros(gaps.shape[1], dtype=np.int64)
    for swaps in _exchanges(num, resampling):
        flipped = np.abs(observed - 2 * (swaps @ gaps) / num)
        num_as_extreme += (flipped >= np.abs(observed) - _TIE_TOLERANCE).sum(axis=0)
    results = []
    for column, difference in enumerate(observed):
        low, high = _percentile_interval(samples[:, column], resampling.confidence)
        p_value = (int(num_as_extreme[column]) + 1) / (resampling.num_samples + 1)
        results.append(Difference(float(difference), low, high, p_value, num))
    return results


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, adjusted by Holm's step-down method (Holm 1979).

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection in
    the family below alpha, whatever the tests' dependence.

    >>> holm_adjusted([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _bootstrap_weights(num: int, resampling: Resampling) -> Iterator[Floats]:
    """How often each question is drawn, shape (block, num): drawing with replacement."""
    generator = np.random.default_rng([resampling.seed, 0])
    even = np.full(num, 1 / num)
    for size in _blocks(num, resampling.num_samples):
        yield generator.multinomial(num, even, size=size).astype(np.float64)


def _exchanges(num: int, resampling: Resampling) -> Iterator[Floats]:
    """Which questions' arms are exchanged (1) or not (0), shape (block, num)."""
    generator = np.random.default_rng([resampling.seed, 1])
    for size in _blocks(num, resampling.num_samples):
        yield generator.integers(0, 2, size=(size, num)).astype(np.float64)


def _blocks(num: int, num_samples: int) -> Iterator[int]:
    size = max(1, _BLOCK_CELLS // num)
    for start in range(0, num_samples, size):
        yield min(size, num_samples - start)


def _percentile_interval(samples: Floats, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def _require_questions(statistics: Floats) -> None:
    if len(statistics) == 0:
        raise ValueError("no questions: nothing to estimate")
