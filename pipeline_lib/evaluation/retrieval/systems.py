"""The systems of an evaluation: the configured search and its branches, on the same queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline_lib.config import RetrievalConfig, RetrievalEvaluationConfig
from pipeline_lib.evaluation.retrieval.exact import Branches, fuse
from pipeline_lib.evaluation.retrieval.gold import Found, Gold
from pipeline_lib.evaluation.retrieval.records import (
    CONFIGURED_SYSTEM,
    DENSE_SYSTEM,
    SPARSE_SYSTEM,
    QueryRecord,
    SystemComparison,
    SystemResult,
)
from pipeline_lib.evaluation.retrieval.scoring import (
    SHOWN_MEASURES,
    ScoredSystem,
    compare_systems,
    estimate_system,
    score,
)
from pipeline_lib.evaluation.retrieval.searching import IndexAsker
from pipeline_lib.evaluation.retrieval.sweep import describe, is_plain
from pipeline_lib.evaluation.statistics import Resampling


@dataclass(frozen=True)
class Measured:
    """One system's rankings and values."""

    config: RetrievalConfig
    found: Mapping[str, Sequence[Found]]
    """Query id to chunks, best first."""
    rankings: Mapping[str, list[tuple[str, float]]]
    """Query id to judged units, best first."""
    scored: ScoredSystem


def measure_systems(
    config: RetrievalEvaluationConfig,
    branches: Mapping[str, Branches],
    gold: Gold,
    asker: IndexAsker,
) -> dict[str, Measured]:
    """The configured search, then each branch alone unless the configured search is just that."""
    used = config.retrieval
    configs = {CONFIGURED_SYSTEM: used}
    for name, mode in ((DENSE_SYSTEM, "dense"), (SPARSE_SYSTEM, "sparse")):
        if used.mode != mode or not is_plain(used):
            configs[name] = RetrievalConfig.model_validate(
                {"mode": mode, "prefetch_limit": used.prefetch_limit, "filters": used.filters}
            )
    return {
        name: measure_search(name, each, branches, gold, asker, config)
        for name, each in configs.items()
    }


def measure_search(
    name: str,
    search: RetrievalConfig,
    branches: Mapping[str, Branches],
    gold: Gold,
    asker: IndexAsker | None,
    config: RetrievalEvaluationConfig,
) -> Measured:
    """Rank and score by one way to search.

    Args:
        name: the system's.
        search: fused from `branches` here, by the formulas of a search, where that is all it takes.
        branches: of every query.
        gold: what is relevant.
        asker: asks the index where reranking or MMR is wanted; `None` where they never are.
        config: depth and cutoffs.
    """
    if asker is None or is_plain(search):
        found = {query: fuse(each, search)[: config.depth] for query, each in branches.items()}
    else:
        found = asker.found(search, config.depth, describe(search))
    rankings = {query: gold.ranking(each) for query, each in found.items()}
    return Measured(search, found, rankings, score(name, rankings, gold.relevance, config.cutoffs))


def mean_context_tokens(measured: Measured, num_tokens: Mapping[str, int], k: int) -> float:
    """Tokens of the first k chunks, averaged over queries: what a reader has to read."""
    totals = [
        sum(num_tokens.get(each.chunk_id, 0) for each in found[:k])
        for found in measured.found.values()
    ]
    return sum(totals) / len(totals)


def system_results(systems: Mapping[str, Measured], resampling: Resampling) -> list[SystemResult]:
    """Every system's metrics with intervals."""
    return [
        SystemResult(
            name=name,
            description=describe(system.config),
            estimates=estimate_system(system.scored, resampling),
            num_without_results=sum(not ranking for ranking in system.rankings.values()),
        )
        for name, system in systems.items()
    ]


def system_comparisons(
    systems: Mapping[str, Measured], cutoffs: Sequence[int], resampling: Resampling
) -> list[SystemComparison]:
    """The configured search against each branch, on every measure at the largest cutoff."""
    configured = systems[CONFIGURED_SYSTEM].scored
    others = [each.scored for name, each in systems.items() if name != CONFIGURED_SYSTEM]
    metrics = [f"{measure}@{max(cutoffs)}" for measure in SHOWN_MEASURES]
    return compare_systems([(configured, other) for other in others], metrics, resampling)


def query_records(
    systems: Mapping[str, Measured], gold: Gold, queries: Mapping[str, str], deepest: int
) -> Iterator[QueryRecord]:
    """Every query as every system answered it."""
    for row, (query, gains) in enumerate(gold.relevance.items()):
        relevant = {unit for unit, gain in gains.items() if gain > 0}
        for name, system in systems.items():
            ranking = [unit for unit, _ in system.rankings[query]]
            ranks = (rank for rank, unit in enumerate(ranking, start=1) if unit in relevant)
            values = system.scored.values[row].tolist()
            yield QueryRecord(
                query_id=query,
                query=queries[query],
                system=name,
                num_relevant=len(relevant),
                first_relevant_rank=next(ranks, None),
                retrieved=tuple(ranking[:deepest]),
                metrics=dict(zip(system.scored.metrics, values, strict=True)),
            )
