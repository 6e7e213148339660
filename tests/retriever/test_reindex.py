"""From an untuned index to one by a tuned model: real Qdrant (local mode), real tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IndexConfig, RetrievalConfig, TuneRetrieverConfig
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retrieval.search import Searcher
from pipeline_lib.retrieval.stage import build_index
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.retriever.promotion import promote_retriever
from pipeline_lib.retriever.service import serving_index
from pipeline_lib.stage import Workspace


def test_a_promoted_model_gets_a_collection_beside_the_old_one_and_the_alias(
    workspace: Workspace,
    published_corpus: ArtifactRef,
    tiny_embedder: Path,
    rows: list[RaftRow],
    config: TuneRetrieverConfig,
    bench: Any,
) -> None:
    ws, corpus = workspace, published_corpus
    index_config = IndexConfig(embedding_model=str(tiny_embedder))
    untuned = build_index(ws, "demo", index_config, corpus).ref
    own = bench.at(ws, rows, corpus, untuned)
    tuned = own.tune(config)
    decision = promote_retriever(
        ws, "demo", config.promotion.model_copy(update={"search": "dense"}), tuned.ref
    )
    assert decision.is_promoted, decision.reasons

    plan = serving_index(ws, "demo", untuned)
    assert plan is not None
    served = build_index(ws, "demo", plan.config, plan.corpus)
    # Measuring had embedded the passages already: nothing is embedded twice.
    assert served.counts["num_embedded"] == 0
    before, after = (IndexRecord.load(ws.artifacts.directory(ref)) for ref in (untuned, served.ref))
    assert before.collection != after.collection
    assert after.embedding_model == f"artifact:{tuned.ref}"
    with VectorStore(ws.settings, "looking") as store:
        assert store.aliases()["demo"] == after.collection
        assert store.exists(before.collection)

    questions = [row for row in rows if row.split == "test"]
    searcher = Searcher.open(ws, served.ref)
    found = searcher.search(
        [row.question for row in questions], limit=1, config=RetrievalConfig(mode="dense")
    )
    hits = [
        hit[0].chunk_id == row.oracle_chunk_id for hit, row in zip(found, questions, strict=True)
    ]
    # The index finds what the measurement said it would.
    assert sum(hits) / len(hits) == tuned.metrics["tuned/dense recall@1"]
