"""The tasks of the stage `tune_retriever`: tune, decide, and say what to index with."""

from __future__ import annotations

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.context import TaskRunContext

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IndexConfig, PromoteRetrieverConfig, TuneRetrieverConfig
from pipeline_lib.evaluation.promotion import PromotionResult
from pipeline_lib.retriever import promotion, service, stage
from pipeline_lib.retriever.measuring import RetrieverEvaluation, read_evaluation
from pipeline_lib.retriever.service import DatasetOrigin, ServingIndex
from pipeline_lib.stage import StageResult
from tasks.presentation import Table, publish_counts, show
from tasks.runtime import log_counts, open_workspace, stage_task


@stage_task(name="dataset-origin", description="The corpus and index a dataset was made from.")
def dataset_origin(dataset: ArtifactRef) -> DatasetOrigin:
    """See `pipeline_lib.retriever.service.origin_of`."""
    with open_workspace() as ws:
        return service.origin_of(ws, dataset)


@stage_task(
    name="tune-retriever", tags=["gpu"], description="Dataset and embedding model to a tuned one."
)
def tune_retriever(
    name: str,
    config: TuneRetrieverConfig,
    dataset: ArtifactRef,
    corpus: ArtifactRef,
    index: ArtifactRef,
) -> StageResult:
    """Make the artifact `model`; see `pipeline_lib.retriever.stage.tune_retriever`."""
    with open_workspace() as ws:
        result = stage.tune_retriever(ws, name, config, dataset=dataset, corpus=corpus, index=index)
        log_counts(result)
        publish_counts(result)
        _publish_measurement(result, read_evaluation(ws.artifacts.directory(result.ref)))
    return result


@stage_task(name="promote-retriever", description="Moves the retriever's champion, or not.")
def promote_retriever(
    name: str, config: PromoteRetrieverConfig, model: ArtifactRef
) -> PromotionResult:
    """Decide about the alias `champion`; see `pipeline_lib.retriever.promotion`."""
    with open_workspace() as ws:
        result = promotion.promote_retriever(ws, name, config, model)
    if TaskRunContext.get() is not None:
        decision = "Promoted" if result.is_promoted else "Did not promote"
        get_run_logger().info("%s %s: %s", decision, result.model, "; ".join(result.reasons))
    return result


@stage_task(name="index-config-in-service", description="With the champion, if there is one.")
def index_config_in_service(name: str, config: IndexConfig, untuned: ArtifactRef) -> IndexConfig:
    """See `pipeline_lib.retriever.service.with_retriever_in_service`."""
    with open_workspace() as ws:
        return service.with_retriever_in_service(ws, name, config, untuned)


@stage_task(name="serving-index", description="What to index again for the champion.")
def serving_index(name: str, untuned: ArtifactRef) -> ServingIndex | None:
    """See `pipeline_lib.retriever.service.serving_index`."""
    with open_workspace() as ws:
        return service.serving_index(ws, name, untuned)


def measurement_table(evaluation: RetrieverEvaluation) -> Table:
    """One row per way to search, one column per metric, with intervals."""
    return [
        {"Search": arm}
        | {
            metric: f"{each.mean:.3f} [{each.low:.3f}, {each.high:.3f}]"
            for metric, each in estimates.items()
        }
        for arm, estimates in evaluation.arms.items()
    ]


def _publish_measurement(result: StageResult, evaluation: RetrieverEvaluation) -> None:
    """Show the measurement as the table `<name>-retriever-metrics`."""
    show(
        create_table_artifact,
        key=f"{result.ref.name}-metrics",
        table=measurement_table(evaluation),
        description=(
            f"{evaluation.num_questions} questions about held-out documents among "
            f"{evaluation.num_passages:,} passages, {evaluation.confidence:.0%} intervals, "
            f"`{result.uri}`"
        ),
    )
