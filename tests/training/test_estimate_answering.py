"""What writing answers takes, of time and of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.training.estimate import (
    Hardware,
    TrainingEstimate,
    TrainingRows,
    estimate_training,
    hardware,
)
from pipeline_lib.training.estimate.answering import Answering
from pipeline_lib.training.estimate.hardware import bytes_per_second, probe_memory
from pipeline_lib.training.estimate.workload import plan_workload

CPU = Hardware(device="cpu", name="CPU", device_bytes=10**11, host_bytes=10**11, precision="fp32")
GPU = replace(CPU, device="cuda", name="NVIDIA A100-SXM4-80GB", precision="bf16")
ROWS = TrainingRows(lengths=[300, 200, 250], num_loss_tokens=[100, 100, 100])
ANSWERING = Answering(
    num_answers=4,
    longest_prompt=1_000,
    longest_answer=200,
    cache_bytes_per_token=10,
    transient_bytes_per_token=1,
)


@pytest.fixture(autouse=True)
def _known_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "probe_cpu", lambda precision, width: 1e11)
    monkeypatch.setattr(hardware, "probe_memory", lambda: 1e10)


def config_of(**sections: Any) -> FinetuneConfig:
    small = {
        "stages": ["grpo"],
        "launch": {"num_processes": 1},
        "batch": {"global_batch_size": 2},
        "engine": {"zero_stage": 0},
    }
    return FinetuneConfig.model_validate(small | sections)


def told(path: Path, machine: Hardware = CPU, **sections: Any) -> TrainingEstimate:
    return estimate_training(
        config_of(**sections), path, ROWS, machine, gradient_checkpointing=False
    )


def test_a_rank_writes_all_its_answers_of_a_step_together(tiny_model_path: Path) -> None:
    config = config_of(
        launch={"num_processes": 2},
        batch={"global_batch_size": 12},
        reinforcement={"num_generations": 5},
    )
    found = Answering.of(config, tiny_model_path, ROWS, "bf16")
    assert found.num_answers == 6 * 5
    assert (found.longest_prompt, found.longest_answer) == (200, 100)
    # Two layers, keys and values of width 32 in bf16; feed-forward 128, hidden 64.
    assert found.cache_bytes_per_token == 2 * 2 * 2 * 32
    assert found.transient_bytes_per_token == 2 * (3 * 128 + 2 * 64)


def test_keys_and_values_are_as_many_as_the_model_keeps(tiny_model_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    cache = model(torch.ones(3, 50, dtype=torch.long), use_cache=True).past_key_values
    kept = sum(each.nbytes for layer in cache.layers for each in (layer.keys, layer.values))
    found = Answering.of(config_of(), tiny_model_path, ROWS, "fp32")
    assert found.cache_bytes_per_token * 3 * 50 == kept


def test_memory_peaks_while_prompts_are_read_or_at_the_end_of_long_answers() -> None:
    assert ANSWERING.num_bytes == 4 * 1_200 * 10
    assert replace(ANSWERING, longest_answer=50).num_bytes == 4 * 1_000 * 11


def test_every_token_reads_all_weights_and_starts_all_kernels() -> None:
    speed = bytes_per_second(GPU, 1)
    assert speed is not None
    assert speed.low < speed.value < speed.high < 2.04e12
    found = ANSWERING.seconds(10**12, 32, GPU, 1)
    assert found is not None
    # 0.6 of 200 tokens, and with half of them on average the keys and values of 4 answers.
    cache = 3 * 4 * 1_060 * 10
    assert found.value == pytest.approx(120 * ((10**12 + cache) / speed.value + 32 * 1e-3))
    cache = 3 * 4 * 1_015 * 10
    assert found.low == pytest.approx(30 * ((10**12 + cache) / speed.high + 32 * 0.2e-3))
    cache = 3 * 4 * 1_100 * 10
    assert found.high == pytest.approx(200 * ((10**12 + cache) / speed.low + 32 * 4e-3))


def test_ranks_on_a_cpu_share_the_speed_of_its_memory() -> None:
    alone, several = bytes_per_second(CPU, 1), bytes_per_second(CPU, 4)
    assert alone is not None
    assert several is not None
    assert alone.value == pytest.approx(4 * several.value)


def test_the_speed_of_this_machines_memory_is_measured() -> None:
    assert 1e8 < probe_memory() < 1e13


def test_the_time_of_writing_is_part_of_the_time_and_told_as_such(tiny_model_path: Path) -> None:
    found = told(tiny_model_path)
    assert found.seconds is not None
    assert found.seconds.high > 5 * found.seconds.low
    [note] = found.notes
    assert note.startswith("Writing answers is about ")
    assert "15% to 100% of max_new_tokens" in note
    more = told(tiny_model_path, reinforcement={"max_steps": 2 * found.num_steps})
    assert more.seconds is not None
    assert more.seconds.value == pytest.approx(2 * found.seconds.value)


def test_what_is_not_known_is_said_not_to_be_estimated(tiny_model_path: Path) -> None:
    found = told(tiny_model_path, replace(GPU, name="GPU 3000"))
    assert found.seconds is None
    assert found.notes == (
        "Writing answers takes most of the time of 'grpo', and is not estimated.",
    )


def test_memory_is_for_learning_or_for_writing_whichever_takes_more(tiny_model_path: Path) -> None:
    few, many = (
        told(tiny_model_path, reinforcement={"num_generations": count}).host_memory.parts
        for count in (2, 64)
    )
    assert "activations" in few
    assert "answers being written" not in few
    expected = Answering.of(
        config_of(reinforcement={"num_generations": 64}), tiny_model_path, ROWS, "fp32"
    )
    assert many["answers being written"] == expected.num_bytes
    assert "activations" not in many


def test_under_zero_3_all_weights_are_gathered_to_write(tiny_model_path: Path) -> None:
    sections: dict[str, Any] = {
        "method": "full",
        "launch": {"num_processes": 2},
        "reinforcement": {"num_generations": 64},
    }
    for stage, expected in ((2, None), (3, 107_200 * 2)):
        parts = told(tiny_model_path, GPU, engine={"zero_stage": stage}, **sections)
        assert parts.device_memory.parts.get("all weights") == expected


def test_questions_that_are_too_few_for_a_step_are_not_counted() -> None:
    config = config_of(reinforcement={"num_epochs": 2, "num_generations": 4})
    workload = plan_workload(config, ROWS)
    assert (workload.num_steps, workload.num_steps_per_epoch) == (2, 1)
    assert workload.epoch.num_rows == 2 * 4
