"""What a run leaves in the Prefect UI: funnel, metrics, report link, as artifacts of the run.

Artifact keys start with the pipeline's name, so that the UI shows the history of each. Every figure
comes from the published artifact: a reused stage shows what it would have shown when it was built.
A server that cannot take an artifact is worth a warning, never a finished stage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.context import get_run_context
from prefect.exceptions import MissingContextError, PrefectException

from pipeline_lib.artifacts.store import ArtifactStore
from pipeline_lib.evaluation.metrics import ARM_METRICS
from pipeline_lib.evaluation.records import (
    BASE,
    CANDIDATE,
    CHAMPION,
    REPORT_FILE,
    Comparison,
    EvaluationSummary,
    read_summary,
)
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.raft.funnel import FUNNEL_FILE
from pipeline_lib.stage import StageResult

ARM_TITLES: dict[str, str] = {BASE: "Base", CANDIDATE: "Fine-tuned", CHAMPION: "Champion"}
_LINK_SECONDS = 7 * 86_400
Table = list[dict[str, str | int]]


def readable(name: str) -> str:
    """A count's or a reason's name for people: `num_chunk_tokens` is `chunk tokens`."""
    return name.removeprefix("num_").replace("_", " ")


def counts_table(result: StageResult) -> Table:
    """What a stage made and what it dropped, one row each."""
    made: Table = [
        {"What": readable(name), "Number": count} for name, count in result.counts.items()
    ]
    dropped: Table = [
        {"What": f"dropped: {readable(reason)}", "Number": count}
        for reason, count in result.dropped.items()
    ]
    return made + dropped


def funnel_table(funnel: Mapping[str, Any]) -> Table:
    """One row per step of the synthesis: kept, dropped, share kept, reasons."""
    table: Table = []
    for step in funnel["steps"]:
        reasons: dict[str, int] = step["dropped"]
        kept, dropped = step["kept"], sum(reasons.values())
        share = f"{kept / (kept + dropped):.0%}" if kept + dropped else ""
        listed = ", ".join(f"{readable(reason)} {n:,}" for reason, n in reasons.items())
        table.append(
            {
                "Step": readable(step["name"]),
                "Kept": kept,
                "Dropped": dropped,
                "Share kept": share,
                "Why dropped": listed,
            }
        )
    return table


def metrics_table(summary: EvaluationSummary) -> Table:
    """One row per metric: every arm with its interval, what fine-tuning changed.

    The retrieval metrics are the same for every arm and stand under each.
    """
    differences: dict[str, str] = {"Difference": BASE, "To champion": CHAMPION}
    table: Table = []
    for metric in _ordered_metrics(summary):
        spec = ARM_METRICS.get(metric)
        row: dict[str, str | int] = {"Metric": spec.title if spec else metric}
        for arm, estimates in summary.arms.items():
            row[ARM_TITLES.get(arm, arm)] = _estimate(estimates.get(metric))
        for column, against in differences.items():
            if against in summary.arms:
                row[column] = _difference(summary.comparison(metric, against))
        table.append(row)
    for metric, estimate in summary.retrieval.items():
        row = {"Metric": metric}
        row |= {ARM_TITLES.get(arm, arm): _estimate(estimate) for arm in summary.arms}
        row |= {column: "" for column, against in differences.items() if against in summary.arms}
        table.append(row)
    return table


def show(create: Callable[..., Any], **fields: Any) -> None:
    """Create an artifact of the current run; without a run, or if the server refuses, do not.

    Args:
        create: one of Prefect's `create_…_artifact` functions.
        fields: its arguments.
    """
    try:
        get_run_context()
    except MissingContextError:
        return
    try:
        create(**fields)
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("The artifact %r cannot be shown: %s", fields.get("key"), error)


def publish_counts(result: StageResult) -> None:
    """Show a stage's counts as the table `<name>-<kind>`."""
    show(
        create_table_artifact,
        key=f"{result.ref.name}-{result.ref.kind}",
        table=counts_table(result),
        description=f"`{result.uri}`",
    )


def publish_funnel(result: StageResult, folder: Path) -> None:
    """Show the synthesis funnel as the table `<name>-funnel`."""
    table = funnel_table(json.loads((folder / FUNNEL_FILE).read_text()))
    show(
        create_table_artifact,
        key=f"{result.ref.name}-funnel",
        table=table,
        description=f"From candidates to rows of `{result.uri}`",
    )


def publish_metrics(result: StageResult, folder: Path) -> None:
    """Show the evaluation as the table `<name>-metrics`."""
    summary = read_summary(folder)
    show(
        create_table_artifact,
        key=f"{result.ref.name}-metrics",
        table=metrics_table(summary),
        description=(
            f"{summary.num_questions} questions of the {summary.split} split, "
            f"{summary.confidence:.0%} intervals, `{result.uri}`"
        ),
    )


def publish_report_link(result: StageResult, store: ArtifactStore) -> None:
    """Link the HTML report as `<name>-report`, at an address that a browser can open."""
    url = store.link(result.ref, REPORT_FILE, valid_seconds=_LINK_SECONDS, content_type="text/html")
    show(
        create_link_artifact,
        key=f"{result.ref.name}-report",
        link=url,
        link_text="HTML report",
        description=(
            f"Opens for {_LINK_SECONDS // 86_400} days; `{REPORT_FILE}` of `{result.uri}` stays. "
            f"A checked copy lies on the worker: `{store.directory(result.ref) / REPORT_FILE}`"
        ),
    )


def _ordered_metrics(summary: EvaluationSummary) -> list[str]:
    present = {metric for estimates in summary.arms.values() for metric in estimates}
    known = [metric for metric in ARM_METRICS if metric in present]
    return known + sorted(present - set(known))


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"
