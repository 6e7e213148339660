"""The evaluation report: one HTML file that needs nothing else, offline or printed.

Whatever comes from documents, users or models is escaped by the template engine, and the page's
content security policy allows neither requests nor any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline_lib.config import Objective
from pipeline_lib.evaluation.charts import DifferenceScale, TrainingChart, training_chart
from pipeline_lib.evaluation.highlight import answer_segments, passage_segments
from pipeline_lib.evaluation.metrics import ARM_METRICS, RETRIEVAL_METRICS, MetricSpec
from pipeline_lib.evaluation.metrics.generation import normalize_answer
from pipeline_lib.evaluation.metrics.grounding import QUOTE_STATUSES, VERBATIM
from pipeline_lib.evaluation.records import (
    BASE,
    CANDIDATE,
    CHAMPION,
    Comparison,
    EvaluationSummary,
    QuestionRecord,
)
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.raft.funnel import RejectSample

if TYPE_CHECKING:
    from jinja2 import Environment

ARM_TITLES: dict[str, str] = {BASE: "Base", CANDIDATE: "Fine-tuned", CHAMPION: "Champion"}
_TILE_METRICS = ("token_f1", "verbatim_quote_rate", "oracle_citation_rate")
_MOST_QUESTIONS_SHOWN = 200
_NUM_OPEN_QUESTIONS = 3
_SHOWN_OF: Mapping[Objective, tuple[str, str]] = {
    "dapt": ("loss", "Loss on plain text, in nats per token"),
    "sft": ("loss", "Loss on answer tokens, in nats per token"),
    "dpo": ("loss", "Loss of the preference between two answers"),
    "grpo": ("reward", "Mean reward of answers, at most 1"),
}
"""Of each objective's log: which quantity the report draws, and what it is."""
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True)
class LineageEntry:
    """One artifact that the evaluation rests on."""

    role: str
    reference: str
    uri: str
    made_at: datetime
    code_version: str


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """What a stage of the training measured, step by step."""

    objective: Objective
    entries: Sequence[Mapping[str, Any]]
    """Lines of the model artifact's `log.jsonl`; may be empty."""

    @property
    def chart(self) -> TrainingChart | None:
        """`None` where nothing was measured."""
        return training_chart(self.entries, _SHOWN_OF[self.objective][0])

    @property
    def meaning(self) -> str:
        """Of what the chart shows."""
        return _SHOWN_OF[self.objective][1]


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything the report shows."""

    name: str
    reference: str
    """Of the evaluation artifact."""
    made_at: datetime
    summary: EvaluationSummary
    records: Sequence[QuestionRecord]
    models: Mapping[str, str]
    """Arm to the model's name or artifact."""
    trainings: Sequence[TrainingLog]
    """Of the model's stages, in their order."""
    funnel: Mapping[str, Any] | None
    """The dataset artifact's `funnel.json`."""
    rejects: Sequence[RejectSample]
    """Samples of what did not become a row of the dataset; may be empty."""
    lineage: Sequence[LineageEntry]
    config: Mapping[str, Any]
    libraries: Mapping[str, str]
    code_version: str


def render_report(content: ReportContent) -> str:
    """The report as one HTML document."""
    summary = content.summary
    arms = list(summary.arms)
    shown = list(content.records[:_MOST_QUESTIONS_SHOWN])
    script = report_environment().get_template("report.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        report_environment()
        .get_template("report.html")
        .render(
            content=content,
            summary=summary,
            arms=arms,
            titles=ARM_TITLES,
            verdict=_verdict(summary),
            tiles=[_tile(summary, name) for name in _TILE_METRICS if name in summary.arms[BASE]],
            metric_rows=[_metric_row(summary, arms, spec) for spec in ARM_METRICS.values()],
            difference_tables=[_difference_table(summary, arm) for arm in arms if arm != CANDIDATE],
            retrieval=_retrieval_table(summary),
            statuses=QUOTE_STATUSES,
            funnel=_funnel_view(content.funnel),
            questions=[_question(record, number) for number, record in enumerate(shown, start=1)],
            num_open=_NUM_OPEN_QUESTIONS,
            config_json=json.dumps(content.config, indent=2, ensure_ascii=False),
            script=script,
            script_digest=digest,
        )
    )


@cache
def report_environment() -> Environment:
    """Templates of the evaluation reports: everything is escaped, nothing may be undefined."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline_lib.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = lambda text: text.replace("_", " ")
    environment.filters["moment"] = lambda moment: moment.strftime("%Y-%m-%d %H:%M %Z").strip()
    return environment


def format_value(value: float, spec: MetricSpec) -> str:
    """A metric's value with as many digits as it is worth showing."""
    if spec.is_share:
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def format_difference(value: float, spec: MetricSpec) -> str:
    """A difference with its sign; 0 has none."""
    sign = "+" if value > 0 else _MINUS if value < 0 else ""
    return sign + format_value(abs(value), spec)


def _interval(low: float, high: float, spec: MetricSpec) -> str:
    return f"{format_value(low, spec)} to {format_value(high, spec)}"


def _difference_interval(comparison: Comparison, spec: MetricSpec) -> str:
    low, high = format_difference(comparison.low, spec), format_difference(comparison.high, spec)
    return f"{low} to {high}"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _judge(comparison: Comparison, spec: MetricSpec) -> str:
    """`better`, `worse` or `unclear`, from the candidate's side."""
    if not comparison.is_clear:
        return "unclear"
    return "better" if spec.improvement(comparison.difference) > 0 else "worse"


def _verdict(summary: EvaluationSummary) -> str:
    """One sentence on the first metric, with its uncertainty."""
    spec = ARM_METRICS[_TILE_METRICS[0]]
    comparison = summary.comparison(spec.name, BASE)
    if comparison is None:
        return "The fine-tuned model was not compared with its base model."
    difference = format_difference(comparison.difference, spec)
    interval = _difference_interval(comparison, spec)
    confidence = f"{100 * summary.confidence:g}% interval {interval}"
    return {
        "better": f"The fine-tuned model answers better than its base model: {spec.title} "
        f"{difference} ({confidence}).",
        "worse": f"The fine-tuned model answers worse than its base model: {spec.title} "
        f"{difference} ({confidence}).",
        "unclear": f"These questions do not tell the fine-tuned model from its base model: "
        f"{spec.title} {difference} ({confidence}).",
    }[_judge(comparison, spec)]


def _tile(summary: EvaluationSummary, metric: str) -> dict[str, Any]:
    spec = ARM_METRICS[metric]
    comparison = summary.comparison(metric, BASE)
    return {
        "title": spec.title,
        "value": format_value(summary.arms[CANDIDATE][metric].mean, spec),
        "base": format_value(summary.arms[BASE][metric].mean, spec),
        "difference": format_difference(comparison.difference, spec) if comparison else "",
        "judgement": _judge(comparison, spec) if comparison else "unclear",
    }


def _metric_row(
    summary: EvaluationSummary, arms: Sequence[str], spec: MetricSpec
) -> dict[str, Any]:
    winners = set()
    for against in (arm for arm in arms if arm != CANDIDATE):
        comparison = summary.comparison(spec.name, against)
        if comparison is not None and comparison.is_clear:
            winners.add(CANDIDATE if _judge(comparison, spec) == "better" else against)

    def cell(arm: str) -> dict[str, Any] | None:
        found = summary.arms[arm].get(spec.name)
        if found is None:
            return None
        return {**_estimate_view(found, spec), "is_better": arm in winners}

    cells = [cell(arm) for arm in arms]
    num = next((c["num"] for c in cells if c is not None), 0)
    return {"spec": spec, "cells": cells, "num": num}


def _estimate_view(found: Estimate, spec: MetricSpec) -> dict[str, Any]:
    return {
        "value": format_value(found.mean, spec),
        "interval": _interval(found.low, found.high, spec),
        "num": found.num,
    }


def _difference_table(summary: EvaluationSummary, against: str) -> dict[str, Any]:
    """The candidate's differences to one arm, drawn on a common scale where units allow it."""
    pairs = [
        (ARM_METRICS[comparison.metric], comparison)
        for comparison in summary.comparisons
        if comparison.against == against
    ]
    units = {spec.name: _scale_unit(spec) for spec, _ in pairs}
    scale = DifferenceScale.covering(
        [
            bound / unit
            for spec, comparison in pairs
            if (unit := units[spec.name])
            for bound in (comparison.low, comparison.high)
        ]
    )

    def row(spec: MetricSpec, comparison: Comparison) -> dict[str, Any]:
        unit = units[spec.name]
        bounds = (comparison.low, comparison.difference, comparison.high)
        return {
            "spec": spec,
            "difference": format_difference(comparison.difference, spec),
            "interval": _difference_interval(comparison, spec),
            "p_value": _p_value(comparison.p_value),
            "num": comparison.num,
            "judgement": _judge(comparison, spec),
            "places": [scale.place(bound / unit) for bound in bounds] if unit else None,
        }

    return {
        "against": ARM_TITLES[against],
        "limit": f"{scale.limit:g}",
        "rows": [row(spec, comparison) for spec, comparison in pairs],
    }


def _scale_unit(spec: MetricSpec) -> float | None:
    """What counts as 1 on the common axis: BLEU's 100; perplexity has no such scale."""
    if spec.is_share:
        return 1.0
    return 100.0 if spec.name == "bleu" else None


def _retrieval_table(summary: EvaluationSummary) -> dict[str, Any]:
    cutoffs = list(dict.fromkeys(int(name.partition("@")[2]) for name in summary.retrieval))
    return {
        "cutoffs": cutoffs,
        "rows": [
            {
                "spec": spec,
                "cells": [
                    _estimate_view(summary.retrieval[f"{spec.name}@{k}"], spec) for k in cutoffs
                ],
            }
            for spec in RETRIEVAL_METRICS.values()
        ],
    }


@dataclass(frozen=True)
class _FunnelStep:
    """One step of the synthesis, with the lengths of its bars in per cent of the widest."""

    name: str
    kept: int
    dropped: dict[str, int]
    """Reason to count."""
    widest: int

    @property
    def num_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def kept_share(self) -> float:
        return round(100 * self.kept / self.widest, 2)

    @property
    def dropped_share(self) -> float:
        return round(100 * self.num_dropped / self.widest, 2)


def _funnel_view(funnel: Mapping[str, Any] | None) -> list[_FunnelStep]:
    if funnel is None:
        return []
    steps = funnel["steps"]
    widest = max([1, *(step["kept"] + sum(step["dropped"].values()) for step in steps)])
    return [_FunnelStep(step["name"], step["kept"], step["dropped"], widest) for step in steps]


def _question(record: QuestionRecord, number: int) -> dict[str, Any]:
    normalized = {normalize_answer(answer.final_answer) for answer in record.answers}
    bad = {answer.arm for answer in record.answers if not _all_verbatim(answer.quotes)}
    return {
        "number": number,
        "record": record,
        "answers": [
            {
                "answer": answer,
                "segments": answer_segments(answer),
                "f1": answer.metrics.get("token_f1"),
                "has_invalid_quote": answer.arm in bad,
            }
            for answer in record.answers
        ],
        "passages": [
            {"passage": passage, "segments": passage_segments(passage, record.answers)}
            for passage in record.passages
        ],
        "is_differing": len(normalized) > 1,
        "has_invalid_quote": bool(bad),
    }


def _all_verbatim(quotes: Sequence[Any]) -> bool:
    return all(quote.status == VERBATIM for quote in quotes)
