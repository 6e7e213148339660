"""Folders that loaders would stumble over, and what is said about them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_lib.errors import ExportError
from pipeline_lib.training.layout import (
    adapter_faults,
    check_layout,
    model_faults,
    vllm_obstacles,
)

MODULE = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def model(tiny_model_path: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "merged"
    shutil.copytree(tiny_model_path, folder)
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA of rank 4 on one matrix of the tiny model."""
    return write_adapter(tmp_path / "adapter")


def write_adapter(
    folder: Path, out_features: int = 64, module: str = MODULE, **config: Any
) -> Path:
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "modules_to_save": None}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    weights = {
        f"base_model.model.{module}.lora_A.weight": torch.zeros(4, 64),
        f"base_model.model.{module}.lora_B.weight": torch.zeros(out_features, 4),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def change(path: Path, **changes: Any) -> None:
    settings = json.loads(path.read_text()) | changes
    kept = {name: value for name, value in settings.items() if value is not None}
    path.write_text(json.dumps(kept))


def test_what_transformers_and_peft_save_has_no_faults(model: Path, adapter: Path) -> None:
    check_layout(merged=model, adapter=adapter)
    assert vllm_obstacles(adapter) == []


@pytest.mark.parametrize(
    ("file", "changes", "fault"),
    [
        ("config.json", {"architectures": None}, "has no 'architectures'"),
        ("config.json", {"model_type": None}, "has no 'model_type'"),
        ("config.json", {"dtype": "bfloat16"}, "says bfloat16, the weights are 21 of float32"),
        ("config.json", {"vocab_size": 200}, "has id 258, the model only 200 embeddings"),
        ("config.json", {"quantization_config": {}}, ""),
        ("config.json", {"quantization_config": {"bits": 4}}, "but the weights are whole"),
    ],
)
def test_a_configuration_that_does_not_fit_is_a_fault(
    model: Path, file: str, changes: dict[str, Any], fault: str
) -> None:
    change(model / file, **changes)
    assert (len(model_faults(model)) == 1) if fault else (model_faults(model) == [])
    assert fault in "; ".join(model_faults(model))


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "there are no safetensors"),
        ("tokenizer.json", "there is neither tokenizer.json nor tokenizer.model"),
        ("tokenizer_config.json", "tokenizer_config.json is missing"),
        ("chat_template.jinja", "there is no chat template"),
        ("generation_config.json", "generation_config.json is missing"),
    ],
)
def test_a_missing_file_is_a_fault(model: Path, file: str, fault: str) -> None:
    (model / file).unlink()
    with pytest.raises(ExportError, match=f"merged: {fault}"):
        check_layout(merged=model)


def test_a_file_that_the_index_does_not_know_is_a_fault(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    first, *others = weights
    (model / "model.safetensors").unlink()
    save_file({first: weights[first]}, model / "model-00001-of-00002.safetensors")
    save_file({n: weights[n] for n in others}, model / "model-00002-of-00002.safetensors")
    assert "without model.safetensors.index.json" in model_faults(model)[0]
    where = dict.fromkeys(others, "model-00002-of-00002.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert model_faults(model) == [
        f"{first} is not in {index.name}",
        f"model-00001-of-00002.safetensors are not in {index.name}",
    ]
    index.write_text(
        json.dumps({"weight_map": where | {first: "model-00001-of-00002.safetensors"}})
    )
    assert model_faults(model) == []


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"target_modules": []}, "target_modules is empty"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set, which vLLM refuses"),
        ({"r": 8}, "which is not rank 8"),
        ({"out_features": 32}, "is (64, 64) in the model, which its adapter does not fit"),
    ],
)
def test_an_adapter_that_does_not_fit_is_a_fault(
    model: Path, tmp_path: Path, settings: dict[str, Any], fault: str
) -> None:
    folder = write_adapter(tmp_path / "adapter", **settings)
    [found] = adapter_faults(folder, model)
    assert fault in found


def test_names_that_peft_would_not_find_are_faults(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.removeprefix("base_model.model."): part for name, part in weights.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    faults = adapter_faults(adapter)
    assert f"{MODULE}.lora_A.weight is no name of a LoRA's weight" in faults
    assert "adapter_model.safetensors holds no LoRA" in faults


@pytest.mark.parametrize(
    ("settings", "obstacle"),
    [
        ({"use_dora": True}, "vLLM does not serve DoRA adapters"),
        ({"alora_invocation_tokens": [1]}, "vLLM takes an activated LoRA for a plain one"),
        ({"r": 1024}, "vLLM serves ranks up to 512, not 1024"),
    ],
)
def test_what_only_vllm_cannot_do_is_told_apart(
    tmp_path: Path, settings: dict[str, Any], obstacle: str
) -> None:
    assert vllm_obstacles(write_adapter(tmp_path / "adapter", **settings)) == [obstacle]
