"""The stage: what it learns, what it publishes, what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import MiningConfig, TuneRetrieverConfig
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.models import resolve_model
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.retrieval.dense import DenseEncoder
from pipeline_lib.retriever.measuring import read_evaluation, read_questions
from pipeline_lib.stage import StageResult


def test_the_tuned_model_finds_held_out_passages_that_neither_bm25_nor_the_untuned_model_finds(
    bench: Any, tuned: StageResult
) -> None:
    evaluation = read_evaluation(bench.ws.artifacts.directory(tuned.ref))
    assert (tuned.ref.kind, tuned.ref.name) == ("model", "demo-retriever")
    assert (evaluation.num_questions, evaluation.num_passages) == (24, 80)
    assert tuned.metrics["bm25 recall@10"] == 0
    assert tuned.metrics["untuned/dense ndcg@10"] < 0.3
    assert tuned.metrics["tuned/dense ndcg@10"] > 0.6
    comparison = evaluation.comparison("ndcg@10", "tuned/dense", "untuned/dense")
    assert comparison is not None
    assert comparison.low > 0.2
    assert comparison.p_value < 0.01


def test_every_figure_can_be_computed_again_from_the_questions(
    bench: Any, tuned: StageResult
) -> None:
    folder = bench.ws.artifacts.directory(tuned.ref)
    questions = read_questions(folder)
    evaluation = read_evaluation(folder)
    for arm, estimates in evaluation.arms.items():
        ranks = [question.ranks[arm] for question in questions]
        reciprocal = [1 / rank if rank is not None and rank <= 10 else 0 for rank in ranks]
        assert estimates["mrr@10"].mean == pytest.approx(np.mean(reciprocal))
        found = [rank is not None and rank <= 5 for rank in ranks]
        assert estimates["recall@5"].mean == pytest.approx(np.mean(found))


def test_nothing_of_a_held_out_document_is_trained_on(
    bench: Any, tuned: StageResult, rows: list[RaftRow]
) -> None:
    pairs = pq.read_table(bench.ws.artifacts.directory(tuned.ref) / "pairs.parquet").to_pylist()
    held_out = {row.oracle_chunk_id for row in rows if row.split != "train"}
    taught = {c for pair in pairs for c in (pair["positive"], *pair["negatives"])}
    assert len(pairs) == 48
    assert held_out
    assert not taught & held_out
    assert all(pair["positive"] not in pair["negatives"] for pair in pairs)


def test_the_artifact_holds_no_pickle_and_the_base_models_own_tokenizer(
    bench: Any, tuned: StageResult, tiny_embedder: Any
) -> None:
    folder = bench.ws.artifacts.directory(tuned.ref)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"README.md", "model/model.safetensors", "model/modules.json"} <= names
    assert {name.rpartition(".")[2] for name in names} <= {
        "json",
        "jsonl",
        "md",
        "parquet",
        "safetensors",
        "txt",
    }
    tokenizer = (folder / "model" / "tokenizer.json").read_bytes()
    assert tokenizer == (tiny_embedder / "tokenizer.json").read_bytes()


def test_the_card_names_its_sources_results_and_the_licence_of_the_base_model(
    bench: Any, tuned: StageResult
) -> None:
    card = (bench.ws.artifacts.directory(tuned.ref) / "README.md").read_text()
    assert 'license: "mit"' in card
    assert f"| dataset | `{bench.dataset}` |" in card
    assert "| train pairs | 48 |" in card
    assert "24 questions about 24 documents that training never\nsaw" in card
    assert "| tuned/hybrid | " in card
    assert "| tuned/dense - bm25 | ndcg@10 | +" in card


def test_a_reference_to_the_artifact_gives_the_measured_model(
    bench: Any, tuned: StageResult, rows: list[RaftRow]
) -> None:
    folder = bench.ws.artifacts.directory(tuned.ref) / "model"
    model = resolve_model(bench.ws.settings, f"artifact:{tuned.ref}")
    assert model.identity == resolve_model(bench.ws.settings, str(folder)).identity
    encoder = DenseEncoder(model.path, model.identity)
    texts = [row.context[0].text for row in rows]
    ours = encoder.encode_documents(texts)
    queries = encoder.encode_queries([row.question for row in rows if row.split == "test"])
    best = (queries @ ours.T).argmax(axis=1)
    found_first = np.mean(
        [texts[place] == rows[56 + n].context[0].text for n, place in enumerate(best)]
    )
    assert found_first == pytest.approx(tuned.metrics["tuned/dense recall@1"])


def test_the_best_epoch_on_the_validation_questions_is_kept(bench: Any, tuned: StageResult) -> None:
    manifest = bench.ws.artifacts.manifest(tuned.ref)
    untuned, *epochs = manifest.details["validation"]
    best = max(epochs, key=lambda score: (round(score["ndcg"], 6), -score["loss"]))
    assert epochs[manifest.details["best_epoch"] - 1] == best
    assert best["ndcg"] > untuned["ndcg"]
    log = (bench.ws.artifacts.directory(tuned.ref) / "log.jsonl").read_text().splitlines()
    losses = [entry["loss"] for entry in map(json.loads, log) if "loss" in entry]
    assert len(losses) == manifest.counts["num_steps"]
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    bench: Any, config: TuneRetrieverConfig
) -> None:
    short = config.model_copy(update={"num_epochs": 1})

    def weights(name: str, seed: int) -> bytes:
        result = bench.tune(short.model_copy(update={"seed": seed}), name)
        folder = bench.ws.artifacts.directory(result.ref)
        return (folder / "model" / "model.safetensors").read_bytes()

    first = weights("one", 1)
    assert weights("two", 1) == first
    assert weights("one", 2) != first


def test_a_second_run_reuses_the_model(bench: Any, config: Any, tuned: StageResult) -> None:
    again = bench.tune(config)
    assert again.reused
    assert again.ref == tuned.ref
    # How it is promoted changes nothing about the model.
    other = config.promotion.model_copy(update={"search": "dense"})
    assert bench.tune(config.model_copy(update={"promotion": other})).reused


def test_matryoshka_dimensions_rank_almost_as_well_as_whole_vectors(
    bench: Any, config: TuneRetrieverConfig, rows: list[RaftRow]
) -> None:
    result = bench.tune(
        config.model_copy(update={"matryoshka_dims": (16,), "num_epochs": 8}), "dolls"
    )
    model = resolve_model(bench.ws.settings, f"artifact:{result.ref}")
    encoder = DenseEncoder(model.path, model.identity)
    documents = encoder.encode_documents([row.context[0].text for row in rows])[:, :16]
    queries = encoder.encode_queries([row.question for row in rows])[:, :16]
    scores = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        documents / np.linalg.norm(documents, axis=1, keepdims=True)
    ).T
    assert np.mean(scores.argmax(axis=1) == np.arange(len(rows))) > 0.4
    too_many = config.model_copy(update={"matryoshka_dims": (64,)})
    with pytest.raises(ConfigError, match=r"\[64\] do not fit vectors of 32 dimensions"):
        bench.tune(too_many)


def test_without_hard_negatives_only_the_other_questions_passages_are_told_apart(
    bench: Any, config: TuneRetrieverConfig
) -> None:
    none = config.model_copy(update={"mining": MiningConfig(num_negatives=0), "num_epochs": 1})
    result = bench.tune(none, "plain")
    assert result.counts["num_negatives"] == 0
    assert result.counts["num_train_pairs"] == 48


def test_a_dataset_without_usable_questions_is_refused(
    bench: Any, config: TuneRetrieverConfig, rows: list[RaftRow]
) -> None:
    few = [row for row in rows if row.split != "train"] + rows[:3]
    with pytest.raises(InputError, match="has 3 usable questions in its train split, 8 are"):
        bench.with_dataset(few).tune(config)
    untested = [row for row in rows if row.split != "test"]
    with pytest.raises(InputError, match="has 0 usable questions in its test split, 1 are"):
        bench.with_dataset(untested).tune(config)


def test_a_document_that_is_trained_and_measured_on_is_refused(
    bench: Any, config: TuneRetrieverConfig, rows: list[RaftRow]
) -> None:
    leaking = rows[60].model_copy(update={"split": "train", "question": "qua qub quc"})
    with pytest.raises(InputError, match=r"1 documents of .* for example doc-60"):
        bench.with_dataset([*rows, leaking]).tune(config)


def test_dataset_corpus_and_index_must_belong_together(
    bench: Any, config: TuneRetrieverConfig
) -> None:
    from dataclasses import replace

    other = ArtifactRef(kind="corpus", name="other", fingerprint="0" * 32)
    with pytest.raises(ConfigError, match="not from corpus/other/0000") as caught:
        replace(bench, corpus=other).tune(config)
    assert "Give the dataset of that corpus" in str(caught.value)
    with pytest.raises(ConfigError, match="is no artifact of the kind 'index'"):
        replace(bench, index=bench.dataset).tune(config)
