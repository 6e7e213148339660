"""Which setting to search with: compared on development queries, confirmed once on the others.

Choosing the best of many settings by the same queries that then report its value would flatter it.
So the queries are split by a seed. On the first part every setting is compared with the one in use,
p-values adjusted by Holm over all of them. On the second part only the winner is compared, once, so
that nothing needs adjusting there. A change is recommended only when both comparisons are clear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline_lib.config import ChunkConfig, RetrievalConfig, SweepConfig
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.records import (
    Decision,
    SettingResult,
    SweepResult,
    SystemComparison,
)
from pipeline_lib.evaluation.retrieval.scoring import ScoredSystem, compare_systems
from pipeline_lib.evaluation.statistics import Estimate, Resampling, estimate_columns

IN_USE = "in use"
_FEWEST_QUERIES = 4


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to cut and to search."""

    name: str
    retrieval: RetrievalConfig
    chunking: ChunkConfig | None = None
    """`None`: the chunks that there are."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields that differ from those in use."""


@dataclass(frozen=True)
class TriedSetting:
    """A setting with its scores on all queries."""

    setting: Setting
    system: ScoredSystem
    context_tokens: float | None = None


def split_queries(
    queries: Iterable[str], dev_fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Development and held-out query ids; a query's side depends on its id, the seed and the rest.

    Raises:
        InputError: too few queries to split.
    """
    ordered = sorted(queries, key=lambda query: _draw(query, seed))
    if len(ordered) < _FEWEST_QUERIES:
        raise InputError(
            f"{len(ordered)} queries are too few to choose settings by: at least {_FEWEST_QUERIES}",
            hint="Bring more judged queries, or evaluate without a sweep.",
        )
    num_dev = min(max(2, round(dev_fraction * len(ordered))), len(ordered) - 2)
    return ordered[:num_dev], ordered[num_dev:]


def sample_queries(queries: Sequence[str], most: int | None, seed: int) -> list[str]:
    """At most so many of the queries, drawn by the seed, in their order."""
    if most is None or len(queries) <= most:
        return list(queries)
    drawn = set(sorted(queries, key=lambda query: _draw(f"sample {query}", seed))[:most])
    return [query for query in queries if query in drawn]


def settings_to_try(base: RetrievalConfig, sweep: SweepConfig) -> list[Setting]:
    """The setting in use, then every other one, each once."""
    settings = [Setting(name=IN_USE, retrieval=base)]
    settings += [_changed(base, changes) for changes in _fusion_changes(base, sweep)]
    settings += [_changed(base, {"mmr_lambda": value}) for value in sweep.mmr_lambdas]
    seen: set[str] = set()
    distinct = []
    for setting in settings:
        # Fields that do not count in a mode (an RRF constant for DBSF) make no other setting.
        mark = _effective(setting.retrieval)
        if mark not in seen:
            seen.add(mark)
            distinct.append(setting)
    return distinct + [_rechunked(base, chunking) for chunking in sweep.chunk_settings]


def conclude(
    tried: Sequence[TriedSetting],
    *,
    metric: str,
    level: str,
    dev: Sequence[str],
    held_out: Sequence[str],
    resampling: Resampling,
) -> SweepResult:
    """Compare the settings on the development queries, and the best of them on the others.

    Args:
        tried: the setting in use first.
        metric: what decides.
        level: what was judged.
        dev: query ids to choose by.
        held_out: query ids to confirm by.
        resampling: how intervals and p-values are made.
    """
    on_dev = [each.system.restricted(dev) for each in tried]
    comparisons = compare_systems(
        [(system, on_dev[0]) for system in on_dev[1:]], [metric], resampling
    )
    estimates = [_estimate(system, metric, resampling) for system in on_dev]
    results = [
        SettingResult(
            name=each.setting.name,
            changes=dict(each.setting.changes),
            estimate=estimate,
            comparison=comparison,
            context_tokens=each.context_tokens,
        )
        for each, estimate, comparison in zip(tried, estimates, [None, *comparisons], strict=True)
    ]
    # Of equals the earlier one, so that the setting in use stays unless something is better.
    best = max(range(len(tried)), key=lambda row: (estimates[row].mean, -row))
    confirmed = None
    on_held_out = {IN_USE: tried[0].system.restricted(held_out)}
    if best:
        on_held_out[tried[best].setting.name] = tried[best].system.restricted(held_out)
        winner, used = on_held_out[tried[best].setting.name], on_held_out[IN_USE]
        [confirmed] = compare_systems([(winner, used)], [metric], resampling)
    decision = _decide(results[best].comparison, confirmed, resampling.confidence)
    return SweepResult(
        metric=metric,
        level=level,
        num_dev=len(dev),
        num_held_out=len(held_out),
        settings=tuple(sorted(results, key=lambda result: -result.estimate.mean)),
        chosen=tried[best].setting.name,
        held_out=confirmed,
        held_out_estimates={
            name: _estimate(system, metric, resampling) for name, system in on_held_out.items()
        },
        decision=decision,
        recommendation=_recommendation(decision, results[best], confirmed),
        recommended=dict(tried[best].setting.changes) if decision == "change" else {},
    )


def _decide(
    on_dev: SystemComparison | None, on_held_out: SystemComparison | None, confidence: float
) -> Decision:
    if on_dev is None or on_held_out is None:
        return "already_best"
    if not on_dev.is_clear(confidence):
        return "no_clear_difference"
    if on_held_out.difference > 0 and on_held_out.is_clear(confidence):
        return "change"
    return "not_confirmed"


def _recommendation(
    decision: Decision, best: SettingResult, held_out: SystemComparison | None
) -> str:
    if best.comparison is None or held_out is None:
        return "The settings in use were the best on the development queries: keep them."
    on_dev = f"{best.comparison.metric} {_signed(best.comparison)} on the development queries"
    on_held_out = f"{_signed(held_out)} on the held-out ones"
    return {
        "change": f"Change to {best.name}: {on_dev}, {on_held_out}.",
        "no_clear_difference": f"No clear difference: keep the settings in use. The best was "
        f"{best.name}, {on_dev} (adjusted p {best.comparison.adjusted_p_value:.3f}).",
        "not_confirmed": f"Keep the settings in use: {best.name} was better by {on_dev}, but "
        f"{on_held_out} does not confirm it (p {held_out.p_value:.3f}).",
    }[decision]


def _signed(comparison: SystemComparison) -> str:
    return f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"


def _estimate(system: ScoredSystem, metric: str, resampling: Resampling) -> Estimate:
    [estimate] = estimate_columns(system.column(metric)[:, None], resampling)
    return estimate


def _fusion_changes(base: RetrievalConfig, sweep: SweepConfig) -> Iterable[dict[str, Any]]:
    limits = sweep.prefetch_limits or (base.prefetch_limit,)
    for mode in sweep.modes:
        if mode != "hybrid":
            yield {"mode": mode}
            continue
        for fusion in sweep.fusions:
            for rrf_k in sweep.rrf_ks if fusion == "rrf" else (base.rrf_k,):
                for weight in sweep.dense_weights:
                    for limit in limits:
                        yield {
                            "mode": mode,
                            "fusion": fusion,
                            "rrf_k": rrf_k,
                            "dense_weight": weight,
                            "sparse_weight": 1.0,
                            "prefetch_limit": limit,
                        }


def _changed(base: RetrievalConfig, changes: Mapping[str, Any]) -> Setting:
    retrieval = base.model_copy(update=dict(changes))
    differing = {name: value for name, value in changes.items() if getattr(base, name) != value}
    return Setting(name=describe(retrieval), retrieval=retrieval, changes=differing)


def _rechunked(base: RetrievalConfig, chunking: ChunkConfig) -> Setting:
    overlap = f", overlap {chunking.overlap_tokens}" if chunking.overlap_tokens else ""
    return Setting(
        name=f"chunks of {chunking.size_tokens} tokens{overlap}",
        retrieval=base,
        chunking=chunking,
        changes={f"chunking.{name}": value for name, value in chunking.model_dump().items()},
    )


def is_plain(config: RetrievalConfig) -> bool:
    """Whether branches and their fusion give the ranking, without texts or vectors."""
    return config.mmr_lambda == 1 and not config.rerank.model


def describe(config: RetrievalConfig) -> str:
    """A search's settings in a few words, those only that count in its mode."""
    words: list[str] = []
    if config.mode != "hybrid":
        words.append(config.mode)
    else:
        words.append(f"rrf, k {config.rrf_k}" if config.fusion == "rrf" else config.fusion)
        if config.dense_weight != config.sparse_weight:
            words.append(f"dense : sparse {config.dense_weight:g} : {config.sparse_weight:g}")
        words.append(f"{config.prefetch_limit} candidates")
    if config.mmr_lambda < 1:
        words.append(f"MMR {config.mmr_lambda:g}")
    if config.rerank.model:
        words.append("reranked")
    return ", ".join(words)


def _effective(config: RetrievalConfig) -> str:
    if config.mode != "hybrid":
        return f"{describe(config)} {config.rerank.model}"
    # Only the ratio of the weights counts in score fusion; RRF stretches ranks by each.
    ratio = config.dense_weight / config.sparse_weight if config.sparse_weight else float("inf")
    weights = ratio if config.fusion == "dbsf" else (config.dense_weight, config.sparse_weight)
    rrf_k = config.rrf_k if config.fusion == "rrf" else None
    limit = config.prefetch_limit
    return repr((config.fusion, rrf_k, weights, limit, config.mmr_lambda, config.rerank.model))


def _draw(query: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {query}".encode()).digest()
