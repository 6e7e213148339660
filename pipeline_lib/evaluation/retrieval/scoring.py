"""From rankings to numbers: per query, averaged with intervals, compared in pairs.

Averages are over all queries with something relevant; one without results scores 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_lib.evaluation.metrics.retrieval import MEASURES
from pipeline_lib.evaluation.retrieval.judgements import Gains
from pipeline_lib.evaluation.retrieval.records import SystemComparison
from pipeline_lib.evaluation.retrieval.runs import Ranking
from pipeline_lib.evaluation.statistics import (
    Estimate,
    Floats,
    Resampling,
    compare_columns,
    estimate_columns,
    holm_adjusted,
)

SHOWN_MEASURES = ("ndcg", "recall", "mrr", "precision", "success")
"""In the order of tables."""


def metric_names(cutoffs: Sequence[int]) -> list[str]:
    """`ndcg@1` and so on, by measure and then by cutoff."""
    return [f"{measure}@{k}" for measure in SHOWN_MEASURES for k in sorted(set(cutoffs))]


@dataclass(frozen=True)
class ScoredSystem:
    """One system's values on every query."""

    name: str
    metrics: tuple[str, ...]
    queries: tuple[str, ...]
    values: Floats
    """Shape (queries, metrics)."""

    def column(self, metric: str) -> Floats:
        """One metric's values, a query each."""
        column: Floats = self.values[:, self.metrics.index(metric)]
        return column

    def restricted(self, queries: Sequence[str]) -> ScoredSystem:
        """The same on some of the queries, in their order."""
        places = {query: row for row, query in enumerate(self.queries)}
        rows = [places[query] for query in queries]
        return ScoredSystem(self.name, self.metrics, tuple(queries), self.values[rows])


def score(
    name: str,
    rankings: Mapping[str, Ranking],
    relevance: Mapping[str, Gains],
    cutoffs: Sequence[int],
) -> ScoredSystem:
    """All metrics of one system on every query of `relevance`.

    Args:
        name: the system's.
        rankings: query id to ranking; a query that is missing found nothing.
        relevance: query id to gains; each with at least one above 0.
        cutoffs: the values of K.
    """
    names = metric_names(cutoffs)
    parsed = [
        (MEASURES[metric.partition("@")[0]], int(metric.partition("@")[2])) for metric in names
    ]
    deepest = max(cutoffs)
    rows = []
    for query, gains in relevance.items():
        retrieved = [unit for unit, _ in rankings.get(query, ())[:deepest]]
        rows.append([measure(retrieved, gains, k) for measure, k in parsed])
    return ScoredSystem(name, tuple(names), tuple(relevance), np.array(rows, dtype=np.float64))


def estimate_system(system: ScoredSystem, resampling: Resampling) -> dict[str, Estimate]:
    """Metric to mean with interval."""
    estimates = estimate_columns(system.values, resampling)
    return dict(zip(system.metrics, estimates, strict=True))


def compare_systems(
    pairs: Sequence[tuple[ScoredSystem, ScoredSystem]],
    metrics: Sequence[str],
    resampling: Resampling,
) -> list[SystemComparison]:
    """Every pair on every metric, p-values adjusted by Holm over all of them.

    All systems must have scored the same queries in the same order.
    """
    if not pairs:
        return []
    left = np.column_stack([a.column(metric) for a, _ in pairs for metric in metrics])
    right = np.column_stack([b.column(metric) for _, b in pairs for metric in metrics])
    results = compare_columns(left, right, resampling)
    adjusted = holm_adjusted([result.p_value for result in results])
    labels = [(a.name, b.name, metric) for a, b in pairs for metric in metrics]
    return [
        SystemComparison(
            metric=metric,
            system=system,
            against=against,
            difference=result.difference,
            low=result.low,
            high=result.high,
            p_value=result.p_value,
            adjusted_p_value=p_value,
        )
        for (system, against, metric), result, p_value in zip(
            labels, results, adjusted, strict=True
        )
    ]
