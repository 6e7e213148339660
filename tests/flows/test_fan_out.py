"""Ingest spread over workers: a real Dask cluster, a real Prefect server, real S3."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.index import index
from flows.ingest import ingest
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import (
    BUNDLED_EMBEDDING_MODEL,
    ChunkConfig,
    FanOutConfig,
    IndexConfig,
    IngestConfig,
    PipelineConfig,
    RetrievalConfig,
)
from pipeline_lib.corpus import stage
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.retrieval.search import Searcher
from pipeline_lib.retrieval.stage import EmbeddedShard, EmbeddingPlan
from pipeline_lib.stage import StageResult, Workspace
from tasks.fan_out import task_runner
from tests.corpus.made_ingests import make_model_folder, parse_inline

NUM_SHARDS = 4


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """An embedding model's folder, as far as ingest looks into it."""
    return make_model_folder(tmp_path / "embedding-model")


@pytest.fixture
def config(tmp_path: Path, model_folder: Path) -> IngestConfig:
    """Four shards of two files; one file is a copy of one in another shard."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(2 * NUM_SHARDS - 1):
        (docs / f"{number:02}.md").write_text(f"# Page {number}\n\nThis is page {number} of many.")
    (docs / "99.md").write_text((docs / "00.md").read_text())
    return IngestConfig(
        sources=(str(docs),),
        embedding_model=str(model_folder),
        chunking=ChunkConfig(size_tokens=16),
        shard_inputs=2,
    )


@pytest.fixture
def cluster(workspace: Workspace) -> Iterator[Any]:
    """Two worker processes; they read the settings of this test from their environment."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as running:
        yield running


def count_tasks(cluster: Any) -> Counter[str]:
    """Worker to tasks finished, kept up to date from now on."""
    from distributed.diagnostics.plugin import SchedulerPlugin

    finished: Counter[str] = Counter()

    class Count(SchedulerPlugin):
        def transition(self, key: Any, start: str, finish: str, *args: Any, **details: Any) -> None:
            if finish == "memory" and "worker" in details:
                finished[details["worker"]] += 1

    cluster.scheduler.add_plugin(Count())
    return finished


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    parse_inline(monkeypatch)


def hashes(ws: Workspace, result: StageResult) -> dict[str, str]:
    return {file.path: file.sha256 for file in ws.artifacts.manifest(result.ref).files}


@pytest.mark.slow
def test_two_dask_workers_make_the_same_corpus_as_one_process(
    prefect_api: str, workspace: Workspace, config: IngestConfig, cluster: Any
) -> None:
    plain = ingest(name="plain", config=config)
    finished = count_tasks(cluster)
    spread = ingest(
        name="spread",
        config=config,
        fan_out=FanOutConfig(runner="dask", address=cluster.scheduler_address),
    )
    assert spread.ref.fingerprint == plain.ref.fingerprint
    assert hashes(workspace, spread) == hashes(workspace, plain)
    assert spread.counts == plain.counts
    assert spread.dropped == {"duplicate": 1}
    assert sum(finished.values()) == NUM_SHARDS
    assert len(finished) == 2, "one worker did everything"
    # Nothing to do: nothing is sent out.
    again = ingest(
        name="spread",
        config=config,
        fan_out=FanOutConfig(runner="dask", address=cluster.scheduler_address),
    )
    assert again.reused
    assert sum(finished.values()) == NUM_SHARDS


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_two_dask_workers_embed_what_the_index_then_finds_in_the_cache(
    prefect_api: str, workspace: Workspace, config: IngestConfig, cluster: Any
) -> None:
    bundled = config.model_copy(update={"embedding_model": BUNDLED_EMBEDDING_MODEL})
    corpus = ingest(name="docs", config=bundled)
    num_chunks = corpus.counts["num_chunks"]
    finished = count_tasks(cluster)
    spread = index(
        name="docs",
        config=IndexConfig(shard_chunks=2),
        fan_out=FanOutConfig(runner="dask", address=cluster.scheduler_address),
    )
    assert sum(finished.values()) == -(-num_chunks // 2)
    assert len(finished) == 2, "one worker did everything"
    assert spread.counts["num_added"] == num_chunks
    assert spread.counts["num_embedded"] == 0
    [hits] = Searcher.open(workspace, spread.ref).search(
        ["This is page 3 of many."], limit=1, config=RetrievalConfig(mode="dense")
    )
    assert "page 3" in hits[0].text


@pytest.mark.usefixtures("inline")
def test_threads_make_the_same_corpus_and_a_bad_shard_fails_the_run(
    prefect_api: str, workspace: Workspace, config: IngestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ingest(name="plain", config=config)
    threads = FanOutConfig(runner="threads", num_workers=2)
    spread = ingest(name="spread", config=config, fan_out=threads)
    assert hashes(workspace, spread) == hashes(workspace, plain)

    prepare_shard: Callable[..., int] = stage.prepare_shard

    def fails_at_third(ws: Workspace, plan: Any, index: int) -> int:
        if index == 2:
            raise InputError("file:docs/04.md changed while the corpus was being read")
        return prepare_shard(ws, plan, index)

    monkeypatch.setattr(stage, "prepare_shard", fails_at_third)
    with pytest.raises(InputError, match=r"04\.md changed"):
        ingest(name="failing", config=config, fan_out=threads)
    assert workspace.artifacts.refs("corpus", "failing") == []


def test_embedding_is_spread_before_the_index_is_built(
    prefect_api: str, workspace: Workspace, fake_stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = ingest(name="docs").ref
    embedded: list[int] = []

    def plan(ws: Workspace, name: str, config: IndexConfig, corpus: ArtifactRef) -> EmbeddingPlan:
        return EmbeddingPlan(
            ref=corpus.model_copy(update={"kind": "index"}),
            corpus=corpus,
            config=config,
            embedding_identity="stub",
            shards=((0, 10), (10, 20), (20, 25)),
        )

    def embed(ws: Workspace, plan: EmbeddingPlan, shard: int) -> EmbeddedShard:
        embedded.append(shard)
        start, end = plan.shards[shard]
        return EmbeddedShard(num_chunks=end - start, num_embedded=0, seconds=0)

    monkeypatch.setattr("pipeline_lib.retrieval.stage.plan_embedding", plan)
    monkeypatch.setattr("pipeline_lib.retrieval.stage.embed_shard", embed)
    result = index(name="docs", fan_out=FanOutConfig(runner="threads", num_workers=2))
    assert sorted(embedded) == [0, 1, 2]
    assert fake_stages.calls[-1] == ("index", {"input0": corpus})
    assert result.ref.kind == "index"


def test_a_runner_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for runner, module in (("dask", "prefect_dask"), ("ray", "prefect_ray")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=f"fan_out.runner is '{runner}', but") as caught:
            task_runner(FanOutConfig(runner=runner))  # type: ignore[arg-type]
        assert f"pip install 'raftline[{runner}]'" in str(caught.value.hint)


def test_an_address_without_a_cluster_runner_is_refused() -> None:
    with pytest.raises(ValidationError, match="set it to 'dask' or 'ray'"):
        FanOutConfig(runner="threads", address="tcp://127.0.0.1:8786")


def test_where_the_work_runs_is_no_part_of_what_it_makes() -> None:
    spread = PipelineConfig(fan_out=FanOutConfig(runner="threads"))
    assert spread.output_config() == PipelineConfig().output_config()
