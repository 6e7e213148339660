"""The card says what a model is made from, under which licence, and how it is used."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.models import ResolvedModel
from pipeline_lib.raft.rendering import SYSTEM_PROMPT
from pipeline_lib.raft.rows import split_file, write_rows
from pipeline_lib.training.card import CARD_FILE, CardFacts, write_model_card

from .conftest import make_row

DATASET = ArtifactRef(kind="dataset", name="demo", fingerprint="d" * 32)
CORPUS = ArtifactRef(kind="corpus", name="demo", fingerprint="c" * 32)
PREVIOUS = ArtifactRef(kind="model", name="demo-dapt", fingerprint="b" * 32)


@pytest.fixture
def card(tmp_path: Path) -> Any:
    """Write a card of an artifact with these folders and configuration; returns its text."""

    def write(*folders: str, licence: str = "license: mit\n", **config: Any) -> str:
        base, dataset, target = (tmp_path / name for name in ("base", "dataset", "model"))
        for folder in (base, dataset, *(target / name for name in folders)):
            folder.mkdir(parents=True)
        (base / "README.md").write_text(f"---\n{licence}---\n")
        rows = [make_row(number) for number in range(3)]
        write_rows(dataset / split_file("train"), [*rows[:2], rows[2].model_copy(**REFUSAL)])
        if "adapter" in folders:
            settings = {"r": 16, "use_dora": config.get("method") == "dora"}
            (target / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
        now = datetime(2026, 1, 1, tzinfo=UTC)
        facts = CardFacts(
            ref=ArtifactRef(kind="model", name="demo", fingerprint="a" * 32),
            base=ResolvedModel("hub/base", base, "sha256:beef"),
            dataset=Manifest(
                ref=DATASET,
                stage="synthesize",
                stage_version=1,
                config={},
                inputs={"corpus": str(CORPUS), "teacher": "some-model"},
                attempt="1",
                files=(),
                code_version="1",
                libraries={},
                started_at=now,
                finished_at=now,
            ),
            dataset_folder=dataset,
            config=FinetuneConfig.model_validate({"base_model": "hub/base"} | config),
            learning_rate=2.1e-4,
            previous=PREVIOUS,
            metrics={"initial_validation_loss": 1.5, "final_validation_loss": 1.25},
            counts={"num_steps": 1200},
            dropped={"train_too_long": 4},
        )
        write_model_card(target, facts)
        return (target / CARD_FILE).read_text()

    return write


REFUSAL: dict[str, Any] = {"update": {"task": "refusal"}}


def test_its_front_matter_is_what_the_hub_reads(card: Any) -> None:
    front = yaml.safe_load(card("merged", "adapter").split("---")[1])
    assert front["base_model"] == "hub/base"
    assert front["license"] == "mit"
    assert (front["library_name"], front["base_model_relation"]) == ("transformers", "finetune")


def test_it_names_where_everything_came_from_and_how_much_of_it(card: Any) -> None:
    text = card("merged", "adapter")
    for part in (str(DATASET), str(CORPUS), str(PREVIOUS), "sha256:beef"):
        assert part in text
    for line in (
        "| learning rate | 0.00021 |",
        "| answer | 2 |",
        "| refusal | 1 |",
        "| train too long | 4 |",
        "| validation loss | 1.5 | 1.25 |",
        "| steps | 1,200 |",
    ):
        assert line in text


def test_it_speaks_of_what_was_learned_and_not_of_rows_where_pairs_were(card: Any) -> None:
    text = card("merged", "adapter", stages=["dpo"])
    assert "Learned are pairs" in text
    assert "accuracy is the share of pairs" in text
    assert "| answer | 2 |" not in text
    assert "negative log-likelihood" not in text


def test_it_shows_how_prompts_are_written(card: Any) -> None:
    text = card("merged", "adapter")
    assert SYSTEM_PROMPT in text
    assert '<document id="1" title="a title">' in text


def test_it_says_what_loads_which_folder(card: Any) -> None:
    text = card("merged", "adapter", "gguf")
    assert "vllm serve <this folder>/merged" in text
    assert "--enable-lora" in text
    assert "llama.cpp" not in text  # there is no file in it


def test_it_does_not_promise_vllm_what_vllm_refuses(card: Any) -> None:
    assert "not for vLLM: vLLM does not serve DoRA adapters" in card("adapter", method="dora")


def test_an_adapter_alone_is_called_one(card: Any) -> None:
    text = card("adapter", method="activated_lora")
    front = yaml.safe_load(text.split("---")[1])
    assert (front["library_name"], front["base_model_relation"]) == ("peft", "adapter")
    assert "There are no merged weights" in text


def test_a_base_model_without_a_stated_licence_is_said_to_have_none(card: Any) -> None:
    text = card("merged", licence="")
    assert yaml.safe_load(text.split("---")[1])["license"] == "other"
    assert "base model (see its own card)" in text


def test_the_configuration_leaves_out_what_other_objectives_would_have_taken(card: Any) -> None:
    told = card("merged", stages=["dpo"]).partition("## Configuration")[2]
    assert '"preferences"' in told
    assert not [name for name in ("pretraining", "supervised", "reinforcement") if name in told]
