"""What a run leaves in the Prefect UI: funnel, metrics, report link, as artifacts of the run.

Artifact keys start with the pipeline's name, so that the UI shows the history of each. Every figure
comes from the published artifact: a reused stage shows what it would have shown when it was built.
A server that cannot take an artifact is worth a warning, never a finished stage.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
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
from pipeline_lib.raft.card import CARD_FILE
from pipeline_lib.raft.funnel import FUNNEL_FILE, SAMPLES_FILE, RejectSample, read_samples
from pipeline_lib.stage import StageResult
from pipeline_lib.training.card import before_and_after

ARM_TITLES: dict[str, str] = {BASE: "Base", CANDIDATE: "Fine-tuned", CHAMPION: "Champion"}
_LINK_SECONDS = 7 * 86_400
_SAMPLES_PER_REASON = 3
_SHOWN_CHARS = 240
_MOST_CARD_CHARS = 200_000
"""Prefect stores whatever length; a browser should not have to."""
_NO_PROSE = ("|", "- ", "#", ">", " ")
Table = list[dict[str, str | int]]


def readable(name: str) -> str:
    """A count's or a reason's name for people: `num_chunk_tokens` is `chunk tokens`."""
    return name.removeprefix("num_").replace("_", " ")


def unwrapped(markdown: str) -> str:
    """Markdown with each paragraph in one line: the UI shows every line break of the text.

    Tables, lists, headings and fenced code stay as they are.
    """
    lines: list[str] = []
    is_code = is_prose = False
    for line in markdown.splitlines():
        is_fence = line.startswith("```")
        was_prose, is_prose = (
            is_prose,
            bool(line.strip() and not is_code and not is_fence and not line.startswith(_NO_PROSE)),
        )
        if was_prose and is_prose:
            lines[-1] += f" {line}"
        else:
            lines.append(line)
        is_code ^= is_fence
    return "\n".join(lines)


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


def rejects_table(samples: Iterable[RejectSample]) -> Table:
    """A few rejects of each reason: what was asked, and what was wrong with it."""
    table: Table = []
    shown: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        place = sample.stage, sample.reason
        shown[place] += 1
        if shown[place] > _SAMPLES_PER_REASON:
            continue
        table.append(
            {
                "Step": readable(sample.stage),
                "Reason": readable(sample.reason),
                "Rejected": sample.num_rejects,
                "Question": _shortened(sample.question),
                "Found": _shortened(sample.text),
                "Kind": readable(sample.kind),
            }
        )
    return table


def ledger_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """What each step asked of each model, and what all of it comes to.

    Args:
        lines: `Ledger.as_records()`.
    """
    sums: Counter[str] = Counter()
    for line in lines:
        sums.update({name: value for name, value in line.items() if not isinstance(value, str)})
    total = [{"step": "total", "model": "", **sums}] if len(lines) > 1 else []
    return [
        {
            "Step": readable(line["step"]),
            "Model": line["model"],
            "Completions": _with_new(line["num_completions"], line["num_new_completions"]),
            "Scores": _with_new(line["num_scored_targets"], line["num_new_scores"]),
            "Prompt tokens": f"{line['prompt_tokens']:,}",
            "of which cached": f"{line['cached_tokens']:,}",
            "Completion tokens": f"{line['completion_tokens']:,}",
            "Waited": f"{line['waiting_seconds']:,.1f} s",
            "Cost": _with_new(line["cost"], line["new_cost"]),
        }
        for line in [*lines, *total]
    ]


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


def publish_rejects(result: StageResult, folder: Path) -> None:
    """Show samples of what synthesis rejected as the table `<name>-rejects`."""
    table = rejects_table(read_samples(folder / SAMPLES_FILE))
    if table:
        show(
            create_table_artifact,
            key=f"{result.ref.name}-rejects",
            table=table,
            description=f"Samples of what was rejected, and why; all of it: `rejects.parquet` of "
            f"`{result.uri}`",
        )


def publish_ledger(result: StageResult, lines: Sequence[Mapping[str, Any]]) -> None:
    """Show what the teacher was asked and paid as the table `<name>-ledger`."""
    if lines:
        show(
            create_table_artifact,
            key=f"{result.ref.name}-ledger",
            table=ledger_table(lines),
            description=f"What the models were asked for `{result.uri}`; in brackets what was new "
            "in the run that built it. Cost is in the prices' currency.",
        )


def publish_card(result: StageResult, folder: Path, suffix: str = "card") -> None:
    """Show an artifact's own description (its `README.md`) as `<name>-<suffix>`."""
    card = (folder / CARD_FILE).read_text(encoding="utf-8")
    front_matter, _, text = card.removeprefix("---\n").partition("\n---\n")
    show(
        create_markdown_artifact,
        key=f"{result.ref.name}-{suffix}",
        markdown=unwrapped((text or front_matter).strip())[:_MOST_CARD_CHARS],
        description=f"`{CARD_FILE}` of `{result.uri}`",
    )


def training_table(metrics: Mapping[str, float]) -> Table:
    """What a training measured, before and after."""
    return [
        {
            "Measured": name,
            "Before": "" if before is None else f"{before:.4g}",
            "After": "" if after is None else f"{after:.4g}",
        }
        for name, (before, after) in before_and_after(metrics).items()
    ]


def publish_training(result: StageResult, folder: Path) -> None:
    """Show what a training measured (`<name>-training`) and the card (`<name>-model-card`).

    Args:
        result: the trained model.
        folder: where its card lies.
    """
    show(
        create_table_artifact,
        key=f"{result.ref.name}-training",
        table=training_table(result.metrics),
        description=f"On validation rows, before and after; each step: `log.jsonl` of "
        f"`{result.uri}`",
    )
    publish_card(result, folder, suffix="model-card")


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


def _with_new(total: float, new: float) -> str:
    """`120 (20)`: all, and of these the new."""
    return f"{_number(total)} ({_number(new)})" if total else ""


def _number(value: float) -> str:
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _shortened(text: str) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= _SHOWN_CHARS else f"{folded[: _SHOWN_CHARS - 1]}…"


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
