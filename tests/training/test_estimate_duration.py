"""What a training computes, and for how long, by hand and by PyTorch's own counter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.training.estimate import Hardware, TrainingRows, hardware
from pipeline_lib.training.estimate.duration import training_duration
from pipeline_lib.training.estimate.hardware import available_host_bytes, flops_per_second
from pipeline_lib.training.estimate.workload import MicroBatchShape, plan_workload
from pipeline_lib.training.examples import Example, write_examples
from pipeline_lib.training.meter import ModelCost


def enable_checkpointing(model: Any) -> None:
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)({"use_reentrant": False})


COST = ModelCost(
    num_body_parameters=1_000,
    num_trained_parameters=100,
    num_head_parameters=500,
    is_head_trained=False,
    num_layers=2,
    attention_width=8,
)
GPU = Hardware(
    device="cuda",
    name="NVIDIA H100 80GB HBM3",
    device_bytes=80 * 10**9,
    host_bytes=256 * 10**9,
    precision="bf16",
)


def config_of(**sections: Any) -> FinetuneConfig:
    small = {"launch": {"num_processes": 1}, "batch": {"global_batch_size": 2}}
    return FinetuneConfig.model_validate(small | sections)


def flops(config: FinetuneConfig, rows: TrainingRows, *, is_checkpointed: bool = False) -> float:
    workload = plan_workload(config, rows)
    return training_duration(
        COST, workload, config, GPU, "bf16", is_checkpointed=is_checkpointed
    ).flops


def test_an_epoch_is_cut_into_steps_and_micro_batches() -> None:
    rows = TrainingRows(lengths=[10, 30, 20], num_loss_tokens=[1, 3, 2])
    workload = plan_workload(config_of(supervised={"num_epochs": 2}), rows)
    assert (workload.num_steps, workload.num_steps_per_epoch) == (4, 2)
    assert (workload.epoch.num_tokens, workload.epoch.num_scored) == (60, 6)
    assert workload.epoch.num_pairs == 55 + 465 + 210
    assert workload.largest == MicroBatchShape(
        segments=(30,), parents=(-1,), num_rows=1, num_loss_tokens=3
    )


def test_most_steps_go_before_epochs() -> None:
    rows = TrainingRows.of_length(10, 20, 2)
    assert plan_workload(config_of(supervised={"max_steps": 3}), rows).num_steps == 3


def test_a_shared_context_is_computed_once() -> None:
    rows = TrainingRows(
        lengths=[50, 60], num_loss_tokens=[5, 5], groups=["c", "c"], prefixes={"c": 40}
    )
    batch = {"global_batch_size": 2, "micro_batch_size": 2}
    shared = plan_workload(config_of(batch=batch), rows)
    assert shared.largest.segments[0] == 40
    assert sorted(shared.largest.segments) == [10, 20, 40]
    assert shared.largest.parents == (-1, 0, 0)
    # The context itself, and each question with all of the context before it.
    assert shared.epoch.num_pairs == 820 + (55 + 10 * 40) + (210 + 20 * 40)
    apart = plan_workload(config_of(batch=batch | {"share_contexts": False}), rows)
    assert (shared.epoch.num_tokens, apart.epoch.num_tokens) == (70, 110)


def test_one_instruction_is_computed_once_before_contexts_and_rows() -> None:
    rows = TrainingRows(
        lengths=[150, 160, 170, 180],
        num_loss_tokens=[5] * 4,
        groups=["", "c", "c", ""],
        prefixes={"c": 140},
        trunk=40,
    )
    batch = {"global_batch_size": 4, "micro_batch_size": 4}
    shared = plan_workload(config_of(batch=batch), rows)
    assert sorted(shared.largest.segments) == [20, 30, 40, 100, 110, 140]
    assert sorted(shared.largest.parents)[:3] == [-1, 0, 0]
    assert shared.epoch.num_tokens == 660 - 3 * 40 - 100
    # Each token sees those before it in its own row, wherever they lie.
    each_row = sum(length * (length + 1) // 2 for length in rows.lengths)
    computed_once = 3 * (40 * 41 // 2) + (140 * 141 // 2 - 40 * 41 // 2)
    assert shared.epoch.num_pairs == each_row - computed_once
    long = TrainingRows.of_length(4, 4000, 5)
    assert plan_workload(config_of(batch=batch), replace(long, trunk=40)).epoch.num_tokens == 16_000


def test_padding_is_computed_too() -> None:
    rows = TrainingRows(lengths=[50, 60], num_loss_tokens=[5, 5])
    batch = {"global_batch_size": 2, "micro_batch_size": 2, "layout": "padded"}
    assert plan_workload(config_of(batch=batch), rows).epoch.num_tokens == 120


def test_a_padded_pair_is_two_rows() -> None:
    pairs = TrainingRows(lengths=[60], num_loss_tokens=[20], answers=[(45, 55)])
    batch = {"global_batch_size": 1, "layout": "padded"}
    padded = plan_workload(config_of(stages=["dpo"], batch=batch), pairs)
    assert padded.largest.num_tokens == 2 * 55
    assert (padded.largest.num_rows, padded.largest.num_loss_tokens) == (1, 20)
    packed = plan_workload(config_of(stages=["dpo"], batch=batch | {"layout": "packed"}), pairs)
    assert packed.largest.num_tokens == 60
    assert pairs.up_to(59).answers == []


def test_rows_are_read_from_a_file_of_examples(tmp_path: Path) -> None:
    prompt = list(range(40))
    examples = [
        Example("a", [*prompt, 1, 2, 3], 42, prompt_group="c"),
        Example("b", [*prompt, 7, 8], 41, prompt_group="c"),
    ]
    write_examples(tmp_path / "train.arrow", examples)
    rows = TrainingRows.of_file(tmp_path / "train.arrow", config_of())
    assert (list(rows.lengths), list(rows.num_loss_tokens)) == ([43, 42], [1, 1])
    assert (rows.prefixes, rows.trunk) == ({"c": 40}, 40)
    pair = TrainingRows.of_file(tmp_path / "train.arrow", config_of(stages=["dpo"]))
    assert (list(pair.lengths), list(pair.num_loss_tokens)) == ([42 + 2], [2])
    assert pair.answers == [(43, 42)]


def test_operations_by_hand() -> None:
    rows = TrainingRows.of_length(2, 10, 3)
    tokens, scored, pairs = 20, 6, 2 * 55
    layers = (4 * 1_000 + 2 * 100) * tokens + 12 * 2 * 8 * pairs
    expected = layers + 4 * 500 * scored
    once = config_of(supervised={"num_epochs": 1})
    assert flops(once, rows) == expected
    forward = 2 * 1_000 * tokens + 4 * 2 * 8 * pairs
    assert flops(once, rows, is_checkpointed=True) == expected + forward
    assert flops(config_of(supervised={"num_epochs": 3}), rows) == 3 * expected
    pairs_too = config_of(stages=["dpo"])  # the model from before scores them as well
    assert flops(pairs_too, rows) == expected + forward
    for beta, num_more in ((0.0, 1), (0.1, 2)):  # answers are written, and perhaps compared, too
        settings = {"num_generations": 2, "beta": beta}
        answers = config_of(stages=["grpo"], reinforcement=settings)
        assert flops(answers, rows) == 2 * (expected + num_more * forward)


def test_an_activated_adapter_goes_back_through_answers_only() -> None:
    rows = TrainingRows.of_length(2, 100, 10)
    plain, activated = (
        flops(config_of(method=method, supervised={"num_epochs": 1}), rows)
        for method in ("lora", "activated_lora")
    )
    assert activated < 0.6 * plain


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_operations_are_those_that_pytorch_counts(
    tiny_model_path: Path, is_checkpointed: bool
) -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="eager")
    if is_checkpointed:
        enable_checkpointing(model)
    model.train()
    length = 256
    ids = torch.arange(length)[None]
    with FlopCounterMode(display=False) as counter:
        logits = model(ids, logits_to_keep=40, use_cache=False).logits
        logits.sum().backward()
    config = config_of(method="full", supervised={"num_epochs": 1}, batch={"global_batch_size": 1})
    workload = plan_workload(config, TrainingRows.of_length(1, length, 40))
    told = training_duration(
        ModelCost.of(model), workload, config, GPU, "bf16", is_checkpointed=is_checkpointed
    )
    # Plain attention computes all pairs, not only those before a token.
    per_pair = 2 * 64 * (12 + 4 * is_checkpointed)
    unseen = per_pair * (length * length - length * (length + 1) / 2)
    # The second forward pass of a layer ends before its last product, which nothing else needs.
    left_out = is_checkpointed * 2 * 2 * length * 64 * 128
    assert told.flops + unseen - left_out == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_time_is_operations_over_speed_with_an_interval() -> None:
    speed = flops_per_second(GPU, "bf16", 8, 1)
    assert speed is not None
    assert speed.low < speed.value < speed.high < 989e12
    config = config_of(supervised={"max_steps": 10})
    big = ModelCost(
        num_body_parameters=1e9,
        num_trained_parameters=0,
        num_head_parameters=0,
        is_head_trained=False,
        num_layers=2,
        attention_width=8,
    )
    workload = plan_workload(config, TrainingRows.of_length(2, 1_000, 10))
    told = training_duration(big, workload, config, GPU, "bf16", is_checkpointed=False)
    assert told.seconds is not None
    assert told.seconds.value == pytest.approx(told.flops / speed.value)
    assert told.seconds.low < told.seconds.value < told.seconds.high
    rate = told.rate_of(20_000)
    assert rate is not None
    assert rate.value == pytest.approx(20_000 / told.seconds.value)


def test_little_work_takes_as_long_as_starting_its_kernels() -> None:
    config = config_of(supervised={"max_steps": 10})
    workload = plan_workload(config, TrainingRows.of_length(2, 10, 1))
    told = training_duration(COST, workload, config, GPU, "bf16", is_checkpointed=False)
    assert told.seconds is not None
    assert told.seconds.value == 10 * 2 * 2 * hardware.LAUNCH_SECONDS.value


def test_the_speed_of_an_unknown_gpu_is_not_made_up() -> None:
    unknown = Hardware(
        device="cuda", name="GPU 3000", device_bytes=1, host_bytes=1, precision="bf16"
    )
    assert flops_per_second(unknown, "bf16", 64, 1) is None
    config = config_of()
    workload = plan_workload(config, TrainingRows.of_length(2, 10, 1))
    told = training_duration(COST, workload, config, unknown, "bf16", is_checkpointed=False)
    assert told.seconds is None
    assert told.flops > 0


def test_a_container_may_have_less_than_the_machine(tmp_path: Path) -> None:
    whole = available_host_bytes(tmp_path)
    assert whole > 0
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 400000\n")
    assert available_host_bytes(tmp_path) == 2_400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_host_bytes(tmp_path) == pytest.approx(whole, rel=0.5)
