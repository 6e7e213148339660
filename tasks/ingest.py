"""The task of the stage `ingest`."""

from __future__ import annotations

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus import stage
from pipeline_lib.stage import StageResult
from tasks.presentation import publish_counts
from tasks.runtime import log_counts, open_workspace, stage_task


@stage_task(name="ingest", description="Sources to documents and chunks.")
def ingest(name: str, config: IngestConfig) -> StageResult:
    """Make the artifact `corpus`; see `pipeline_lib.corpus.stage.ingest`."""
    with open_workspace() as ws:
        result = stage.ingest(ws, name, config)
    log_counts(result)
    publish_counts(result)
    return result
