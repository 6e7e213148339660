"""The tasks of the stage `ingest`: as a whole, or planned, parsed shard by shard, and joined."""

from __future__ import annotations

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus import stage
from pipeline_lib.corpus.stage import IngestPlan
from pipeline_lib.stage import StageResult
from tasks.presentation import publish_counts
from tasks.runtime import log_counts, open_workspace, shard_workspace, stage_task


@stage_task(name="ingest", description="Sources to documents and chunks.")
def ingest(name: str, config: IngestConfig) -> StageResult:
    """Make the artifact `corpus`; see `pipeline_lib.corpus.stage.ingest`."""
    with open_workspace() as ws:
        result = stage.ingest(ws, name, config)
    log_counts(result)
    publish_counts(result)
    return result


@stage_task(name="plan-ingest", description="Lists the sources, cuts them into shards.")
def plan_ingest(name: str, config: IngestConfig) -> IngestPlan:
    """See `pipeline_lib.corpus.stage.plan_ingest`."""
    with open_workspace() as ws:
        return stage.plan_ingest(ws, name, config)


@stage_task(name="ingest-shard", description="Parses and cuts one shard.")
def ingest_shard(plan: IngestPlan, shard: int) -> int:
    """See `pipeline_lib.corpus.stage.prepare_shard`; the number of inputs."""
    with shard_workspace() as ws:
        return stage.prepare_shard(ws, plan, shard)


@stage_task(name="ingest", description="Joins the shards to a corpus.")
def finish_ingest(plan: IngestPlan) -> StageResult:
    """Make the artifact `corpus`; see `pipeline_lib.corpus.stage.finish_ingest`."""
    with open_workspace() as ws:
        result = stage.finish_ingest(ws, plan)
    log_counts(result)
    publish_counts(result)
    return result
