"""Counts of parameters, and what follows from them, on a model without weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.training.estimate.parameters import (
    ModelBuild,
    ModelSizes,
    build_skeleton,
    model_sizes,
)
from pipeline_lib.training.estimate.states import checkpoint_bytes, state_memory

SIZES = ModelSizes(num_parameters=1_100, num_trainable_parameters=100, num_quantized_parameters=0)


def sizes_of(path: Path, **config: Any) -> ModelSizes:
    made = FinetuneConfig.model_validate(config)
    build = ModelBuild.of(made, path, "bf16")
    return model_sizes(build_skeleton(build), build.method)


def states(**config: Any) -> dict[str, int]:
    made = FinetuneConfig.model_validate({"launch": {"num_processes": 2}} | config)
    return state_memory(SIZES, made, "bf16", "cpu").on_device


def test_all_parameters_are_counted_once_though_embeddings_are_tied(tiny_model_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    sizes = sizes_of(tiny_model_path, method="full")
    assert sizes.num_parameters == sum(p.numel() for p in loaded.parameters())
    assert sizes.num_trainable_parameters == sizes.num_parameters


def test_smollm2_has_as_many_parameters_as_its_card_says(smollm2_path: Path) -> None:
    assert sizes_of(smollm2_path, method="full").num_parameters == 134_515_008


def test_an_adapter_of_rank_r_adds_r_times_the_sides_of_each_matrix(tiny_model_path: Path) -> None:
    # Hidden 64, feed-forward 128, keys and values 32; two layers.
    sides = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
    expected = 2 * sum(8 * (inputs + outputs) for inputs, outputs in sides)
    sizes = sizes_of(tiny_model_path, lora={"r": 8})
    assert sizes.num_trainable_parameters == expected


def test_dora_adds_a_magnitude_for_each_output(tiny_model_path: Path) -> None:
    outputs = 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64)
    lora, dora = (sizes_of(tiny_model_path, method=method) for method in ("lora", "dora"))
    difference = dora.num_trainable_parameters - lora.num_trainable_parameters
    assert difference == outputs


def test_a_pattern_chooses_what_is_adapted(tiny_model_path: Path) -> None:
    sizes = sizes_of(tiny_model_path, lora={"r": 4, "target_modules": r".*\.q_proj"})
    assert sizes.num_trainable_parameters == 2 * 4 * (64 + 64)


def test_qlora_keeps_the_layers_matrices_in_four_bits(tiny_model_path: Path) -> None:
    matrices = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)
    sizes = sizes_of(tiny_model_path, method="qlora")
    assert sizes.num_quantized_parameters == matrices
    rest = sizes.num_frozen_parameters - matrices
    assert sizes.frozen_bytes("bf16") == pytest.approx(2 * rest + matrices * 4.127 / 8, abs=1)


def test_without_deepspeed_trained_weights_and_all_their_states_are_fp32() -> None:
    assert states(engine={"zero_stage": 0}) == {
        "weights": 1_000 * 2 + 100 * 4,
        "gradients": 400,
        "optimizer": 800,
        "communication": 400,
    }


def test_one_rank_without_deepspeed_sends_nothing() -> None:
    alone = states(engine={"zero_stage": 0}, launch={"num_processes": 1})
    assert "communication" not in alone


@pytest.mark.parametrize(
    ("stage", "weights", "gradients"),
    [(1, 2_200, 400), (2, 2_200, 200), (3, 1_100, 200)],
)
def test_each_zero_stage_shares_out_more(stage: int, weights: int, gradients: int) -> None:
    held = states(engine={"zero_stage": stage})
    assert (held["weights"], held["gradients"]) == (weights, gradients)
    assert held["optimizer"] == 12 * 50  # master, mean and square of half of the 100
    assert ("gathered weights" in held) == (stage == 3)


@pytest.mark.parametrize(("stage", "reference"), [(0, 400), (1, 200), (2, 200), (3, 100)])
def test_a_frozen_copy_of_what_is_trained_is_kept_to_compare_with(
    stage: int, reference: int
) -> None:
    engine = {"zero_stage": stage}
    assert states(engine=engine, stages=["dpo"])["reference"] == reference
    held = {"stages": ["grpo"], "engine": engine, "reinforcement": {"beta": 0.1}}
    assert states(**held)["reference"] == reference
    for without in ({"stages": ["sft"]}, {"stages": ["grpo"]}):
        assert "reference" not in states(engine=engine, **without)


def test_the_copy_is_offloaded_with_the_weights() -> None:
    engine = {"zero_stage": 3, "offload_parameters": True}
    config = FinetuneConfig.model_validate({"engine": engine, "stages": ["dpo"]})
    memory = state_memory(SIZES, config, "bf16", "cuda")
    assert memory.on_host == {"weights": 1_100, "reference": 100}
    assert "reference" not in memory.on_device


def test_what_is_offloaded_leaves_the_device() -> None:
    engine = {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}
    config = FinetuneConfig.model_validate({"engine": engine})
    memory = state_memory(SIZES, config, "bf16", "cuda")
    assert memory.on_host == {"optimizer": 600, "gradients": 200, "weights": 1_100}
    assert "optimizer" not in memory.on_device
    assert "weights" not in memory.on_device
    assert memory.on_device["gathered weights"] == 2 * 2_200  # gathered, and on their way


def test_quantized_weights_are_not_counted_twice() -> None:
    sizes = dataclasses.replace(SIZES, num_quantized_parameters=800)
    assert sizes.frozen_bytes("bf16") == 200 * 2 + round(800 * 4.127 / 8)


def test_a_checkpoint_is_copied_once_however_many_hold_it() -> None:
    replicas, shared = (
        checkpoint_bytes(SIZES, FinetuneConfig.model_validate({"engine": {"zero_stage": stage}}))
        for stage in (0, 2)
    )
    assert replicas == shared == 100 * 12
    nodes = {"launch": {"num_processes": 2, "num_nodes": 2, "address": "a:29500"}}
    assert checkpoint_bytes(SIZES, FinetuneConfig.model_validate(nodes)) == 50 * 12
