"""Simulated micro batches against real ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.training import attention
from pipeline_lib.training.attention import Segments, no_mask, register_segment_attention
from pipeline_lib.training.estimate import activations
from pipeline_lib.training.estimate.activations import activation_memory, activations_by_formula
from pipeline_lib.training.estimate.parameters import ModelBuild, build_skeleton
from pipeline_lib.training.estimate.simulation import StorageMeter, simulate
from pipeline_lib.training.estimate.workload import MicroBatchShape
from pipeline_lib.training.losses import token_losses

ROW = MicroBatchShape(segments=(300,), parents=(-1,), num_rows=1, num_loss_tokens=40)


def build_of(path: Path, precision: str = "fp32", **config: Any) -> ModelBuild:
    return ModelBuild.of(FinetuneConfig.model_validate(config), path, precision)


def peak(build: ModelBuild, shape: MicroBatchShape = ROW, *, is_checkpointed: bool = False) -> int:
    found = activation_memory(build, shape, is_checkpointed=is_checkpointed)
    assert found.is_simulated
    return found.num_bytes


def saved_by_a_real_pass(path: Path, method: Literal["lora", "full"]) -> int:
    """Bytes of what autograd keeps, told by its own hooks, in a model with weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path)
    model.set_attn_implementation(register_segment_attention())
    if method == "lora":
        lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            model = get_peft_model(model, lora)
    model.train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    positions = torch.arange(ROW.num_tokens)[None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(
            input_ids=positions % 250,
            position_ids=positions,
            attention_mask=no_mask(),
            segments=Segments(ROW.segments, ROW.parents),
            logits_to_keep=torch.arange(ROW.num_loss_tokens),
            use_cache=False,
        ).logits
        token_losses(logits[0], torch.zeros(ROW.num_loss_tokens, dtype=torch.long)).sum()
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_kept_for_the_backward_pass_is_what_autograd_keeps(
    tiny_model_path: Path, method: Literal["lora", "full"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU; the attention of processors keeps a little less."""
    monkeypatch.setattr(attention, "_takes_blocks", lambda _: False)
    build = build_of(tiny_model_path, method=method, engine={"zero_stage": 2})
    told = simulate(build_skeleton(build), ROW, autocast_precision=None, is_checkpointed=False)
    assert told.saved == pytest.approx(saved_by_a_real_pass(tiny_model_path, method), rel=0.02)


def test_the_meter_counts_storages_for_as_long_as_they_live() -> None:
    known = torch.zeros(100)
    with StorageMeter([known]) as meter:
        first = torch.zeros(1_000)
        view = first[:10]
        del first
        assert meter.live == 4_000  # the view keeps it
        second = known + 1
        del view, second
        known.add_(1)
    assert (meter.live, meter.peak) == (0, 4_400)


def test_checkpointing_keeps_less_and_dora_more(tiny_model_path: Path) -> None:
    plain = peak(build_of(tiny_model_path))
    assert peak(build_of(tiny_model_path), is_checkpointed=True) < 0.8 * plain
    assert peak(build_of(tiny_model_path, method="dora")) > plain


def test_half_the_precision_takes_about_half(tiny_model_path: Path) -> None:
    ratio = peak(build_of(tiny_model_path, "bf16")) / peak(build_of(tiny_model_path, "fp32"))
    assert 0.5 < ratio < 0.65  # normalisation and losses are in fp32 either way


def test_activations_grow_with_tokens_not_with_their_square(tiny_model_path: Path) -> None:
    build = build_of(tiny_model_path)
    sizes = [
        peak(build, MicroBatchShape(segments=(n,), parents=(-1,), num_rows=1, num_loss_tokens=40))
        for n in (1_000, 2_000, 4_000)
    ]
    assert (sizes[2] - sizes[1]) / (sizes[1] - sizes[0]) == pytest.approx(2, rel=0.02)


def test_a_shared_context_takes_less_than_rows_by_themselves(tiny_model_path: Path) -> None:
    build = build_of(tiny_model_path)
    tree = MicroBatchShape(
        segments=(400, 30, 30, 30), parents=(-1, 0, 0, 0), num_rows=3, num_loss_tokens=60
    )
    apart = MicroBatchShape(segments=(430,) * 3, parents=(-1,) * 3, num_rows=3, num_loss_tokens=60)
    assert peak(build, tree) < 0.6 * peak(build, apart)


def test_an_activated_adapter_keeps_only_the_prompts_keys_and_values(tiny_model_path: Path) -> None:
    long = MicroBatchShape(segments=(2_000,), parents=(-1,), num_rows=1, num_loss_tokens=40)
    activated = peak(build_of(tiny_model_path, method="activated_lora"), long)
    assert activated < 0.5 * peak(build_of(tiny_model_path), long)


def test_the_formula_is_near_the_simulation(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    proportions = LlamaConfig(
        vocab_size=8_000,
        hidden_size=576,
        intermediate_size=1_536,
        num_hidden_layers=4,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    proportions.save_pretrained(tmp_path)
    build = build_of(tmp_path, "bf16")
    for is_checkpointed in (False, True):
        told = activations_by_formula(build, ROW, is_checkpointed=is_checkpointed)
        assert told == pytest.approx(peak(build, ROW, is_checkpointed=is_checkpointed), rel=0.2)


def test_a_model_that_cannot_be_simulated_is_told_by_the_formula(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(build: ModelBuild) -> Any:
        raise RuntimeError("looks at numbers")

    monkeypatch.setattr(activations, "build_skeleton", refuse)
    build = build_of(tiny_model_path, lora={"r": 3})
    found = activation_memory(build, ROW, is_checkpointed=False)
    assert not found.is_simulated
    assert found.num_bytes == activations_by_formula(build, ROW, is_checkpointed=False)
    activations._simulated.cache_clear()
