"""The tasks of the stage `index`: as a whole, or with the embedding spread over shards first."""

from __future__ import annotations

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IndexConfig
from pipeline_lib.retrieval import stage
from pipeline_lib.retrieval.stage import EmbeddedShard, EmbeddingPlan
from pipeline_lib.stage import StageResult
from tasks.presentation import publish_counts
from tasks.runtime import log_counts, open_workspace, shard_workspace, stage_task


@stage_task(name="index", description="Chunks to a searchable collection.")
def index(name: str, config: IndexConfig, corpus: ArtifactRef) -> StageResult:
    """Make the artifact `index`; see `pipeline_lib.retrieval.stage.build_index`."""
    with open_workspace() as ws:
        result = stage.build_index(ws, name, config, corpus)
    log_counts(result)
    publish_counts(result)
    return result


@stage_task(name="plan-embedding", description="Cuts the corpus into shards.")
def plan_embedding(name: str, config: IndexConfig, corpus: ArtifactRef) -> EmbeddingPlan:
    """See `pipeline_lib.retrieval.stage.plan_embedding`."""
    with open_workspace() as ws:
        return stage.plan_embedding(ws, name, config, corpus)


@stage_task(name="embed-shard", description="Embeds one shard into the cache.")
def embed_shard(plan: EmbeddingPlan, shard: int) -> EmbeddedShard:
    """See `pipeline_lib.retrieval.stage.embed_shard`."""
    with shard_workspace() as ws:
        return stage.embed_shard(ws, plan, shard)
