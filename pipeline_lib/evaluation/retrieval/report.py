"""The report of a retrieval evaluation: one HTML file, in the form of the comparison of models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline_lib.evaluation.charts import DifferenceScale
from pipeline_lib.evaluation.metrics import RETRIEVAL_METRICS, SUCCESS, MetricSpec
from pipeline_lib.evaluation.report import (
    LineageEntry,
    format_difference,
    format_value,
    report_environment,
)
from pipeline_lib.evaluation.retrieval.records import (
    CONFIGURED_SYSTEM,
    DENSE_SYSTEM,
    SPARSE_SYSTEM,
    QueryRecord,
    RetrievalSummary,
    SettingResult,
    SweepResult,
    SystemComparison,
)
from pipeline_lib.evaluation.retrieval.scoring import SHOWN_MEASURES
from pipeline_lib.evaluation.statistics import Estimate

SYSTEM_TITLES = {CONFIGURED_SYSTEM: "In use", DENSE_SYSTEM: "Dense", SPARSE_SYSTEM: "BM25"}
SPECS: dict[str, MetricSpec] = {**RETRIEVAL_METRICS, "success": SUCCESS}
_UNITS = {"documents": "documents", "spans": "chunks that cover a marked span", "chunks": "chunks"}
_MOST_SETTINGS_SHOWN = 40
_MOST_QUERIES_SHOWN = 50
_VERDICTS = {
    "better": "The search in use finds better than {other}",
    "worse": "The search in use finds worse than {other}",
    "unclear": "These queries do not tell the search in use from {other}",
}


@dataclass(frozen=True, kw_only=True)
class RetrievalReport:
    """Everything the report shows."""

    name: str
    reference: str
    """Of the evaluation artifact."""
    made_at: datetime
    summary: RetrievalSummary
    records: Sequence[QueryRecord]
    lineage: Sequence[LineageEntry]
    config: Mapping[str, Any]
    libraries: Mapping[str, str]
    code_version: str


def render_retrieval_report(report: RetrievalReport) -> str:
    """The report as one HTML document."""
    summary = report.summary
    deepest = max(summary.cutoffs)
    return (
        report_environment()
        .get_template("retrieval_report.html")
        .render(
            report=report,
            summary=summary,
            titles=SYSTEM_TITLES,
            unit=_UNITS[summary.level],
            deepest=deepest,
            verdict=_verdict(summary),
            tiles=[_tile(summary, measure, deepest) for measure in SHOWN_MEASURES[:3]],
            success=_tile(summary, "success", deepest),
            metric_rows=[
                _metric_row(summary, measure, k)
                for measure in SHOWN_MEASURES
                for k in summary.cutoffs
            ],
            difference_tables=_difference_tables(summary),
            sweep=None if summary.sweep is None else _sweep_view(summary.sweep, summary),
            queries=_hardest(report.records, summary),
            config_json=json.dumps(report.config, indent=2, ensure_ascii=False),
        )
    )


def _verdict(summary: RetrievalSummary) -> str:
    """One sentence on the deciding metric against the better of the branches."""
    others = [system for system in summary.systems if system.name != CONFIGURED_SYSTEM]
    best = max(others, key=lambda system: system.estimates[summary.metric].mean)
    comparison = next(
        each
        for each in summary.comparisons
        if (each.against, each.metric) == (best.name, summary.metric)
    )
    start = _VERDICTS[_judge(comparison, summary.confidence)]
    other = f"{SYSTEM_TITLES[best.name]} alone, the better branch"
    return f"{start.format(other=other)}: {_name(summary.metric)} {_difference(comparison)}."


def _tile(summary: RetrievalSummary, measure: str, k: int) -> dict[str, str]:
    metric = f"{measure}@{k}"
    values = {
        system.name: format_value(system.estimates[metric].mean, SPECS[measure])
        for system in summary.systems
    }
    others = [
        f"{SYSTEM_TITLES[name]} {value}"
        for name, value in values.items()
        if name != CONFIGURED_SYSTEM
    ]
    return {
        "title": _name(metric),
        "value": values[CONFIGURED_SYSTEM],
        "others": " · ".join(others),
    }


def _metric_row(summary: RetrievalSummary, measure: str, k: int) -> dict[str, Any]:
    metric, spec = f"{measure}@{k}", SPECS[measure]
    return {
        "title": _name(metric),
        "note": spec.description if k == summary.cutoffs[0] else "",
        "cells": [_estimate(system.estimates[metric], spec) for system in summary.systems],
    }


def _difference_tables(summary: RetrievalSummary) -> list[dict[str, Any]]:
    scale = DifferenceScale.covering(
        [bound for each in summary.comparisons for bound in (each.low, each.high)]
    )
    against = dict.fromkeys(each.against for each in summary.comparisons)
    return [
        {
            "against": SYSTEM_TITLES[name],
            "limit": f"{scale.limit:g}",
            "rows": [
                _difference_row(each, scale, summary.confidence)
                for each in summary.comparisons
                if each.against == name
            ],
        }
        for name in against
    ]


def _difference_row(
    comparison: SystemComparison, scale: DifferenceScale, confidence: float
) -> dict[str, Any]:
    spec = SPECS[comparison.metric.partition("@")[0]]
    bounds = (comparison.low, comparison.difference, comparison.high)
    return {
        "title": _name(comparison.metric),
        "difference": format_difference(comparison.difference, spec),
        "interval": _bounds(comparison),
        "p_value": _p_value(comparison.p_value),
        "adjusted_p_value": _p_value(comparison.adjusted_p_value),
        "judgement": _judge(comparison, confidence),
        "places": [scale.place(bound) for bound in bounds],
    }


def _sweep_view(sweep: SweepResult, summary: RetrievalSummary) -> dict[str, Any]:
    compared = [each.comparison for each in sweep.settings if each.comparison is not None]
    scale = DifferenceScale.covering([b for each in compared for b in (each.low, each.high)])
    shown = list(sweep.settings[:_MOST_SETTINGS_SHOWN])
    shown += [e for e in sweep.settings[_MOST_SETTINGS_SHOWN:] if e.comparison is None]
    held_out = sweep.held_out
    return {
        "result": sweep,
        "metric": _name(sweep.metric),
        "limit": f"{scale.limit:g}",
        "rows": [_setting_row(each, scale, sweep, summary.confidence) for each in shown],
        "num_settings": len(sweep.settings),
        "num_compared": len(compared),
        "held_out": [
            {"name": name, **_estimate(estimate, SPECS["ndcg"])}
            for name, estimate in sweep.held_out_estimates.items()
        ],
        "held_out_difference": _difference(held_out) if held_out else "",
        "held_out_p": _p_value(held_out.p_value) if held_out else "",
        "judgement": _judge(held_out, summary.confidence) if held_out else "",
    }


def _setting_row(
    setting: SettingResult, scale: DifferenceScale, sweep: SweepResult, confidence: float
) -> dict[str, Any]:
    comparison = setting.comparison
    view = {
        "name": setting.name,
        "is_chosen": setting.name == sweep.chosen,
        "tokens": "" if setting.context_tokens is None else f"{setting.context_tokens:,.0f}",
        "estimate": _estimate(setting.estimate, SPECS["ndcg"]),
        "difference": None,
    }
    if comparison is not None:
        view["difference"] = _difference_row(comparison, scale, confidence)
    return view


def _hardest(records: Sequence[QueryRecord], summary: RetrievalSummary) -> dict[str, Any]:
    """Queries on which the search in use does worst, with the other systems' places beside."""
    by_query: dict[str, dict[str, QueryRecord]] = {}
    for record in records:
        by_query.setdefault(record.query_id, {})[record.system] = record
    failed = sorted(
        (each for each in by_query.values() if each[CONFIGURED_SYSTEM].metrics[summary.metric] < 1),
        key=lambda each: (
            each[CONFIGURED_SYSTEM].metrics[summary.metric],
            -max(r.metrics[summary.metric] for r in each.values()),
            each[CONFIGURED_SYSTEM].query_id,
        ),
    )
    deepest = max(summary.cutoffs)
    return {
        "num_imperfect": len(failed),
        "num_missed": sum(
            each[CONFIGURED_SYSTEM].metrics[f"success@{deepest}"] == 0 for each in failed
        ),
        "rows": [
            {
                "query": each[CONFIGURED_SYSTEM].query,
                "query_id": each[CONFIGURED_SYSTEM].query_id,
                "num_relevant": each[CONFIGURED_SYSTEM].num_relevant,
                "value": f"{each[CONFIGURED_SYSTEM].metrics[summary.metric]:.2f}",
                "ranks": [each[system.name].first_relevant_rank for system in summary.systems],
            }
            for each in failed[:_MOST_QUERIES_SHOWN]
        ],
    }


def _name(metric: str) -> str:
    measure, _, k = metric.partition("@")
    return SPECS[measure].title.replace("@K", f"@{k}")


def _estimate(estimate: Estimate, spec: MetricSpec) -> dict[str, str]:
    low, high = format_value(estimate.low, spec), format_value(estimate.high, spec)
    return {"value": format_value(estimate.mean, spec), "interval": f"{low} to {high}"}


def _judge(comparison: SystemComparison, confidence: float) -> str:
    if not comparison.is_clear(confidence):
        return "unclear"
    return "better" if comparison.difference > 0 else "worse"


def _difference(comparison: SystemComparison) -> str:
    spec = SPECS[comparison.metric.partition("@")[0]]
    return f"{format_difference(comparison.difference, spec)} ({_bounds(comparison)})"


def _bounds(comparison: SystemComparison) -> str:
    spec = SPECS[comparison.metric.partition("@")[0]]
    low, high = format_difference(comparison.low, spec), format_difference(comparison.high, spec)
    return f"{low} to {high}"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
