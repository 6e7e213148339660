"""The task of the stage `index`."""

from __future__ import annotations

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IndexConfig
from pipeline_lib.retrieval import stage
from pipeline_lib.stage import StageResult
from tasks.presentation import publish_counts
from tasks.runtime import log_counts, open_workspace, stage_task


@stage_task(name="index", description="Chunks to a searchable collection.")
def index(name: str, config: IndexConfig, corpus: ArtifactRef) -> StageResult:
    """Make the artifact `index`; see `pipeline_lib.retrieval.stage.build_index`."""
    with open_workspace() as ws:
        result = stage.build_index(ws, name, config, corpus)
    log_counts(result)
    publish_counts(result)
    return result
