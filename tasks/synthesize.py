"""The task of the stage `synthesize`."""

from __future__ import annotations

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.raft import stage
from pipeline_lib.stage import StageResult
from tasks.presentation import publish_card, publish_funnel, publish_ledger, publish_rejects
from tasks.runtime import log_counts, open_workspace, stage_task


@stage_task(name="synthesize", description="Corpus and index to RAFT rows.")
def synthesize(
    name: str, config: SynthesizeConfig, corpus: ArtifactRef, index: ArtifactRef
) -> StageResult:
    """Make the artifact `dataset`; see `pipeline_lib.raft.stage.synthesize`."""
    with open_workspace() as ws:
        result = stage.synthesize(ws, name, config, corpus, index)
        log_counts(result)
        folder = ws.artifacts.directory(result.ref)
        publish_funnel(result, folder)
        publish_rejects(result, folder)
        publish_ledger(result, ws.artifacts.manifest(result.ref).details[stage.LEDGER_DETAIL])
        publish_card(result, folder)
    return result
