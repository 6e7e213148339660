"""The task of the stage `evaluate`."""

from __future__ import annotations

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import EvaluateConfig
from pipeline_lib.evaluation import baseline as baselines
from pipeline_lib.evaluation import stage
from pipeline_lib.stage import StageResult
from tasks.presentation import publish_metrics, publish_report_link
from tasks.runtime import log_counts, open_workspace, stage_task


@stage_task(name="choose-baseline", description="The champion, or what it was compared with.")
def choose_baseline(name: str, model: ArtifactRef) -> ArtifactRef | None:
    """See `pipeline_lib.evaluation.baseline.choose_baseline`."""
    with open_workspace() as ws:
        return baselines.choose_baseline(ws, name, model)


@stage_task(name="evaluate", description="Base and fine-tuned model compared.")
def evaluate(
    name: str,
    config: EvaluateConfig,
    model: ArtifactRef,
    dataset: ArtifactRef,
    index: ArtifactRef,
    baseline: ArtifactRef | None = None,
) -> StageResult:
    """Make the artifact `evaluation`; see `pipeline_lib.evaluation.stage.evaluate`."""
    with open_workspace() as ws:
        result = stage.evaluate(
            ws, name, config, model=model, dataset=dataset, index=index, baseline=baseline
        )
        log_counts(result)
        publish_metrics(result, ws.artifacts.directory(result.ref))
        publish_report_link(result, ws.artifacts)
    return result
