"""The task of the stage `evaluate_retrieval`."""

from __future__ import annotations

from prefect.artifacts import create_table_artifact

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import RetrievalEvaluationConfig
from pipeline_lib.evaluation.retrieval import stage
from pipeline_lib.evaluation.retrieval.records import RetrievalSummary, read_retrieval_summary
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.stage import StageResult
from tasks.presentation import Table, publish_report_link, show
from tasks.runtime import log_counts, open_workspace, stage_task


@stage_task(name="evaluate-retrieval", description="An index measured by judged queries.")
def evaluate_retrieval(
    name: str,
    config: RetrievalEvaluationConfig,
    index: ArtifactRef,
    dataset: ArtifactRef | None = None,
) -> StageResult:
    """Make an artifact `evaluation`; see `pipeline_lib.evaluation.retrieval.stage`."""
    with open_workspace() as ws:
        result = stage.evaluate_retrieval(ws, name, config, index=index, dataset=dataset)
        log_counts(result)
        summary = read_retrieval_summary(ws.artifacts.directory(result.ref))
        _publish(result, summary)
        publish_report_link(result, ws.artifacts)
    return result


def metrics_table(summary: RetrievalSummary) -> Table:
    """One row per metric, one column per system."""
    return [
        {"Metric": metric, **{s.name: _estimate(s.estimates[metric]) for s in summary.systems}}
        for metric in summary.systems[0].estimates
    ]


def sweep_table(summary: RetrievalSummary) -> Table:
    """One row per setting, best first; empty without a sweep."""
    if summary.sweep is None:
        return []
    return [
        {
            "Setting": each.name,
            f"{summary.sweep.metric} (development)": _estimate(each.estimate),
            "p (Holm)": f"{each.comparison.adjusted_p_value:.3f}" if each.comparison else "",
        }
        for each in summary.sweep.settings
    ]


def _publish(result: StageResult, summary: RetrievalSummary) -> None:
    show(
        create_table_artifact,
        key=f"{result.ref.name}-metrics",
        table=metrics_table(summary),
        description=f"{summary.num_queries} queries, {summary.confidence:.0%} intervals, "
        f"`{result.uri}`",
    )
    if summary.sweep is not None:
        show(
            create_table_artifact,
            key=f"{result.ref.name}-sweep",
            table=sweep_table(summary),
            description=summary.sweep.recommendation,
        )


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
