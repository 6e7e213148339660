"""The task of the stage `promote`."""

from __future__ import annotations

from prefect import get_run_logger
from prefect.context import TaskRunContext

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import PromoteConfig
from pipeline_lib.evaluation import promotion
from pipeline_lib.evaluation.promotion import PromotionResult
from tasks.runtime import open_workspace, stage_task


@stage_task(name="promote", description="Moves the champion, or says why not.")
def promote(name: str, config: PromoteConfig, evaluation: ArtifactRef) -> PromotionResult:
    """Decide about the alias `champion`; see `pipeline_lib.evaluation.promotion.promote`."""
    with open_workspace() as ws:
        result = promotion.promote(ws, name, config, evaluation)
    if TaskRunContext.get() is not None:
        decision = "Promoted" if result.is_promoted else "Did not promote"
        get_run_logger().info("%s %s: %s", decision, result.model, "; ".join(result.reasons))
    return result
