"""Stages whose work is spread over workers: plan, one task per shard, join.

The shards run in a flow of their own (a subflow), because a flow has one task runner. Their results
lie in S3, so whatever stops them, the next run goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from prefect.futures import PrefectFuture, wait

from flows.runtime import raftline_flow
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FanOutConfig, IndexConfig, IngestConfig
from pipeline_lib.corpus.stage import IngestPlan
from pipeline_lib.retrieval.stage import EmbeddingPlan
from pipeline_lib.stage import StageResult
from tasks.fan_out import task_runner
from tasks.index import embed_shard, index, plan_embedding
from tasks.ingest import finish_ingest, ingest, ingest_shard, plan_ingest

IN_PLACE = FanOutConfig()
R = TypeVar("R")


def ingest_with(fan_out: FanOutConfig, name: str, config: IngestConfig) -> StageResult:
    """The stage `ingest`, its parsing spread as `fan_out` says."""
    if fan_out.runner == "none":
        return ingest(name, config)
    runner = task_runner(fan_out)
    plan = plan_ingest(name, config)
    if plan.shards:
        run_name = f"ingest-shards {name}"
        ingest_shards.with_options(task_runner=runner, flow_run_name=run_name)(plan)
    return finish_ingest(plan)


def index_with(
    fan_out: FanOutConfig, name: str, config: IndexConfig, corpus: ArtifactRef
) -> StageResult:
    """The stage `index`, its embedding spread as `fan_out` says."""
    if fan_out.runner == "none":
        return index(name, config, corpus)
    runner = task_runner(fan_out)
    plan = plan_embedding(name, config, corpus)
    if plan.shards:
        run_name = f"embed-shards {name}"
        embed_shards.with_options(task_runner=runner, flow_run_name=run_name)(plan)
    return index(name, config, corpus)


@raftline_flow(name="ingest-shards")
def ingest_shards(plan: IngestPlan) -> int:
    """Parse every shard of a plan; the number of inputs.

    Args:
        plan: What there is to parse.
    """
    return sum(_results([ingest_shard.submit(plan, n) for n in range(len(plan.shards))]))


@raftline_flow(name="embed-shards")
def embed_shards(plan: EmbeddingPlan) -> int:
    """Embed every shard of a plan; the number of chunks.

    Args:
        plan: What there is to embed.
    """
    shards = _results([embed_shard.submit(plan, n) for n in range(len(plan.shards))])
    return sum(shard.num_chunks for shard in shards)


def _results(futures: Sequence[PrefectFuture[R]]) -> list[R]:
    """What the tasks returned, or the first error; waits for all, so no finished shard is lost."""
    wait(list(futures))
    return [future.result() for future in futures]
