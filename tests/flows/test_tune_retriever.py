"""Tuning the retriever as a flow, and as the optional step of the pipeline; stages are fakes."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError

from flows.pipeline import pipeline
from flows.tune_retriever import tune_retriever
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import PipelineConfig, TuneRetrieverConfig
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retriever.measuring import ArmComparison, RetrieverEvaluation, write_evaluation
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage

pytestmark = pytest.mark.usefixtures("prefect_api")

BASE_IDENTITY = "sha256:untuned"


class Measured:
    """What the fake tuning measures."""

    difference = 0.1


@pytest.fixture
def measured(fake_stages: Any, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """An index that says what it was made with, and a tuning that gains `difference`."""
    outcome = Measured()

    def tune(
        ws: Workspace, name: str, config: TuneRetrieverConfig, **inputs: ArtifactRef
    ) -> StageResult:
        fake_stages.calls.append(("tune_retriever", inputs))
        return run_stage(
            ws,
            kind="model",
            name=f"{name}-retriever",
            stage="tune_retriever",
            stage_version=1,
            config=config,
            inputs={**inputs, "base_model": BASE_IDENTITY},
            build=lambda draft: _fill(draft, outcome.difference),
        )

    monkeypatch.setattr("pipeline_lib.retriever.stage.tune_retriever", tune)
    index = fake_stages.make("index", "index", _fill_index)

    def build_index(ws: Workspace, name: str, config: Any, corpus: ArtifactRef) -> StageResult:
        result: StageResult = index(ws, name, config, corpus=corpus)
        fake_stages.calls[-1][1].update(name=name, model=config.embedding_model)
        return result

    monkeypatch.setattr("pipeline_lib.retrieval.stage.build_index", build_index)
    synthesize = fake_stages.make("dataset", "synthesize", fake_stages.fill_dataset)
    monkeypatch.setattr(
        "pipeline_lib.raft.stage.synthesize",
        lambda ws, name, config, corpus, index: synthesize(
            ws, name, config, corpus=corpus, index=index
        ),
    )
    return outcome


def _fill_index(draft: ArtifactDraft) -> None:
    IndexRecord(
        collection="docs__0",
        alias="docs",
        embedding_model="bundled:all-MiniLM-L6-v2",
        embedding_identity=BASE_IDENTITY,
        bm25_language="english",
        dimension=384,
        num_points=2,
        points_sha256="",
    ).save(draft.directory)
    draft.counts["num_chunks"] = 2


def _fill(draft: ArtifactDraft, difference: float) -> None:
    estimate = Estimate(mean=0.5, low=0.4, high=0.6, num=20)
    evaluation = RetrieverEvaluation(
        measuring_version=1,
        split="test",
        num_questions=20,
        num_documents=9,
        num_passages=99,
        confidence=0.95,
        arms={arm: {"ndcg@10": estimate} for arm in ("bm25", "untuned/hybrid", "tuned/hybrid")},
        comparisons=tuple(
            ArmComparison(
                metric="ndcg@10",
                arm="tuned/hybrid",
                against=against,
                difference=difference,
                low=difference - 0.05,
                high=difference + 0.05,
                p_value=0.01,
                num=20,
            )
            for against in ("untuned/hybrid", "bm25")
        ),
    )
    write_evaluation(draft.directory, evaluation, [])
    draft.counts["num_train_pairs"] = 7


def indexed(fake_stages: Any) -> list[tuple[str, str]]:
    """Name and embedding model of every index that was asked for."""
    return [(call["name"], call["model"]) for stage, call in fake_stages.calls if stage == "index"]


CONFIG = PipelineConfig(name="docs", tune_retriever=TuneRetrieverConfig())
MINILM = "bundled:all-MiniLM-L6-v2"


def test_the_pipeline_indexes_with_the_tuned_model_and_reuses_everything_the_next_time(
    fake_stages: Any, measured: Measured, workspace: Workspace
) -> None:
    summary = pipeline(CONFIG)
    assert fake_stages.stages == [
        "ingest",
        "index",
        "synthesize",
        "tune_retriever",
        "index",
        "finetune",
        "evaluate",
    ]
    assert summary.retriever is not None
    tuned = summary.retriever.model.ref
    assert workspace.artifacts.resolve("model/docs-retriever@champion") == tuned
    assert indexed(fake_stages) == [
        ("docs-untuned", MINILM),
        ("docs", f"artifact:{tuned}"),
    ]
    # The dataset rests on the untuned index, the language model is evaluated with the tuned one.
    made_with = dict(fake_stages.calls)
    assert made_with["synthesize"]["index"] == summary.retriever.untuned_index.ref
    assert made_with["evaluate"]["index"] == summary.index.ref
    assert list(summary.stages) == [
        "ingest",
        "index (untuned)",
        "synthesize",
        "tune_retriever",
        "index",
        "finetune",
        "evaluate",
    ]
    assert f"The index is now made with {tuned}" in summary.message
    assert pipeline(CONFIG).is_unchanged


def test_a_model_that_is_not_better_leaves_the_untuned_one_in_service(
    fake_stages: Any, measured: Measured, workspace: Workspace
) -> None:
    measured.difference = 0.01
    summary = pipeline(CONFIG)
    assert summary.retriever is not None
    assert not summary.retriever.promotion.is_promoted
    assert indexed(fake_stages) == [("docs-untuned", MINILM), ("docs", MINILM)]
    assert "Retriever not promoted: ndcg@10 of hybrid search" in summary.message


def test_the_flow_tunes_on_the_datasets_own_corpus_and_index(
    fake_stages: Any, measured: Measured, workspace: Workspace
) -> None:
    before = pipeline(PipelineConfig(name="docs"))
    fake_stages.calls.clear()
    summary = tune_retriever(name="docs")
    assert fake_stages.calls[0] == (
        "tune_retriever",
        {"dataset": before.dataset.ref, "corpus": before.corpus.ref, "index": before.index.ref},
    )
    assert indexed(fake_stages) == [("docs", f"artifact:{summary.model.ref}")]
    assert summary.index is not None
    assert workspace.artifacts.resolve("index/docs@latest") == summary.index.ref


def test_the_flow_leaves_the_index_alone_when_nothing_is_promoted(
    fake_stages: Any, measured: Measured, workspace: Workspace
) -> None:
    before = pipeline(PipelineConfig(name="docs"))
    fake_stages.calls.clear()
    measured.difference = -0.2
    summary = tune_retriever(name="docs")
    assert summary.index is None
    assert fake_stages.stages == ["tune_retriever"]
    assert workspace.artifacts.resolve("index/docs@latest") == before.index.ref
    assert len(summary.promotion.reasons) == 2  # below the untuned model, and below BM25


def test_wrong_settings_are_refused_before_any_work(fake_stages: Any) -> None:
    with pytest.raises(ParameterTypeError, match="last_rank"):
        tune_retriever(config={"mining": {"first_rank": 9, "last_rank": 3}})
    with pytest.raises(ParameterTypeError, match="give the pipeline a shorter name"):
        pipeline(config={"name": "d" * 60, "tune_retriever": {}})
    assert fake_stages.calls == []
