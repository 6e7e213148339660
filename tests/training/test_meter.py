"""What training costs, and how much of the hardware it uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.training.meter import BatchWork, Meter, ModelCost, causal_pairs, peak_flops

COST = ModelCost(
    num_body_parameters=1000,
    num_trained_parameters=1000,
    num_head_parameters=500,
    is_head_trained=True,
    num_layers=2,
    attention_width=8,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_full_fine_tuning_costs_six_operations_per_token_and_parameter() -> None:
    assert COST.flops(BatchWork(num_tokens=10)) == 6 * 1000 * 10


def test_with_an_adapter_frozen_weights_cost_four() -> None:
    import dataclasses

    adapted = dataclasses.replace(COST, num_body_parameters=1010, num_trained_parameters=10)
    assert adapted.flops(BatchWork(num_tokens=10)) == (4 * 1000 + 6 * 10) * 10


def test_the_head_costs_only_where_it_is_computed() -> None:
    assert COST.flops(BatchWork(num_scored=3)) == 6 * 500 * 3


def test_a_row_of_three_has_six_pairs() -> None:
    assert causal_pairs(3) == 6
    # Scores and weighted values, 2 operations each, forward, and twice that backward.
    assert COST.flops(BatchWork(num_pairs=6)) == 6 * 2 * 8 * (4 + 8)


def test_the_count_is_what_torch_counts(tiny_model_path: Path) -> None:
    """Eager attention computes all pairs, also those that the mask then hides."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="eager")
    ids = torch.arange(3, 43).view(2, 20)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    work = BatchWork(num_rows=2, num_tokens=40, num_scored=40, num_pairs=2 * 20 * 20)
    # Older versions of transformers take the angles of positions from a product of matrices.
    assert ModelCost.of(model).flops(work) == pytest.approx(counter.get_total_flops(), rel=2e-5)


def test_frozen_weights_and_embeddings_are_told_apart(tiny_model_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    cost = ModelCost.of(model)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128
    assert cost.num_body_parameters == 2 * layer
    assert cost.num_trained_parameters == 2 * 3 * 64 * 128
    assert cost.num_head_parameters == 259 * 64
    assert not cost.is_head_trained


def test_the_time_of_validation_and_saving_does_not_count() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.add(BatchWork(num_rows=2, num_tokens=7))
    clock.now = 3.0
    with meter.paused():
        clock.now = 10.0
    meter.add(BatchWork(num_rows=1, num_tokens=5))
    clock.now = 11.0
    assert meter.pop() == (BatchWork(num_rows=3, num_tokens=12), 4.0)
    clock.now = 12.5
    assert meter.pop() == (BatchWork(), 1.5)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10G", 70),
    ],
)
def test_peaks_of_known_devices(name: str, tflops: float) -> None:
    assert peak_flops(name, "bf16") == tflops * 1e12


@pytest.mark.parametrize(
    ("name", "precision"), [("NVIDIA RTX A4000", "bf16"), ("NVIDIA H200", "fp32")]
)
def test_no_peak_is_made_up(name: str, precision: str) -> None:
    assert peak_flops(name, precision) is None  # type: ignore[arg-type]
