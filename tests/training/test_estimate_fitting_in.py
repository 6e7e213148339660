"""What is done when a training does not fit into memory."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.training.estimate import (
    Hardware,
    TrainingEstimate,
    TrainingRows,
    check,
    estimate_training,
    estimating,
    hardware,
    nearest_that_fits,
    resolve_checkpointing,
)

MB = 1_000_000
ROWS = TrainingRows.of_length(16, 2_000, 40)
CPU = Hardware(device="cpu", name="CPU", device_bytes=10**11, host_bytes=10**11, precision="fp32")
GPU = replace(CPU, device="cuda", name="A100", precision="bf16")


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process costs anything by itself, and the CPU's speed is known."""
    monkeypatch.setattr(estimating, "_RANK_BYTES", {"cpu": 0, "cuda": 0})
    monkeypatch.setattr(estimating, "_CUDA_CONTEXT", 0)
    monkeypatch.setattr(estimating, "_NCCL_BYTES", 0)
    monkeypatch.setattr(hardware, "probe_cpu", lambda precision, width: 1e11)


def config_of(**sections: Any) -> FinetuneConfig:
    batch = {"micro_batch_size": 2, "global_batch_size": 8}
    return FinetuneConfig.model_validate({"batch": batch} | sections)


def told(path: Path, config: FinetuneConfig, machine: Hardware = CPU) -> TrainingEstimate:
    return estimate_training(config, path, ROWS, machine)


def with_bytes(machine: Hardware, num_bytes: float) -> Hardware:
    return replace(machine, device_bytes=int(num_bytes), host_bytes=int(num_bytes))


def test_ranks_on_a_cpu_share_its_memory(tiny_model_path: Path) -> None:
    alone, several = (
        told(tiny_model_path, config_of(launch={"num_processes": n}, engine={"zero_stage": 1}))
        for n in (1, 2)
    )
    parts, doubled = alone.host_memory.parts, several.host_memory.parts
    for name in ("weights", "gradients", "activations"):
        assert doubled[name] == 2 * parts[name]
    assert doubled["optimizer"] == parts["optimizer"]  # ZeRO shares it out
    assert several.device_memory == several.host_memory


def test_offloading_frees_a_gpu_at_the_cost_of_the_host(tiny_model_path: Path) -> None:
    plain, offloaded = (
        told(tiny_model_path, config_of(method="full", engine={"offload_optimizer": is_on}), GPU)
        for is_on in (False, True)
    )
    assert offloaded.device_memory.num_bytes < plain.device_memory.num_bytes
    assert offloaded.host_memory.num_bytes > plain.host_memory.num_bytes


def test_checkpointing_is_on_by_itself_only_where_memory_does_not_suffice(
    tiny_model_path: Path,
) -> None:
    config = config_of()
    needed = told(tiny_model_path, config).host_memory.num_bytes
    assert not resolve_checkpointing(config, tiny_model_path, ROWS, with_bytes(CPU, needed))
    assert resolve_checkpointing(config, tiny_model_path, ROWS, with_bytes(CPU, needed - 1))


@pytest.mark.parametrize(("setting", "expected"), [("on", True), ("off", False)])
def test_a_setting_other_than_auto_is_kept(
    tiny_model_path: Path, setting: str, expected: bool
) -> None:
    config = config_of(engine={"gradient_checkpointing": setting})
    assert resolve_checkpointing(config, tiny_model_path, ROWS, with_bytes(CPU, 1)) is expected
    assert told(tiny_model_path, config).gradient_checkpointing is expected


def test_what_fits_is_let_through(tiny_model_path: Path) -> None:
    config = config_of()
    check(told(tiny_model_path, config), config, tiny_model_path, ROWS, CPU)


def test_what_does_not_fit_is_refused_with_the_nearest_that_does(tiny_model_path: Path) -> None:
    config = config_of(engine={"gradient_checkpointing": "off"})
    needed = told(tiny_model_path, config).host_memory.num_bytes
    small = with_bytes(CPU, needed * 0.95)
    with pytest.raises(ConfigError, match="are free") as caught:
        check(told(tiny_model_path, config, small), config, tiny_model_path, ROWS, small)
    assert "activations" in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(
        "Set under finetune: engine.gradient_checkpointing: on (then "
    )


def test_smaller_micro_batches_keep_the_global_batch(tiny_model_path: Path) -> None:
    config = config_of(
        engine={"gradient_checkpointing": "on"},
        batch={"micro_batch_size": 4, "global_batch_size": 8},
    )
    needed = told(tiny_model_path, config).host_memory.num_bytes
    remedy = nearest_that_fits(config, tiny_model_path, ROWS, with_bytes(CPU, needed * 0.7))
    assert remedy is not None
    assert remedy.changes == {"batch.micro_batch_size": 2}
    assert remedy.estimate.batch.global_batch == 8
    assert remedy.estimate.batch.gradient_accumulation_steps == 2


def test_micro_batches_in_tokens_divide_the_global_batch_too(tiny_model_path: Path) -> None:
    batch = {
        "global_batch_size": None,
        "global_batch_tokens": 16_384,
        "micro_batch_tokens": 8_192,
        "max_seq_len": 2_048,
    }
    config = config_of(engine={"gradient_checkpointing": "on"}, batch=batch)
    needed = told(tiny_model_path, config).host_memory.num_bytes
    remedy = nearest_that_fits(config, tiny_model_path, ROWS, with_bytes(CPU, needed * 0.7))
    assert remedy is not None
    assert remedy.changes == {"batch.micro_batch_tokens": 4_096}


def test_optimizer_states_that_are_too_large_are_shared_out(tiny_model_path: Path) -> None:
    tiny = TrainingRows.of_length(8, 16, 2)
    config = config_of(
        method="full",
        batch={"global_batch_size": 2},
        engine={"zero_stage": 1, "gradient_checkpointing": "on"},
    )
    needed = estimate_training(config, tiny_model_path, tiny, GPU).device_memory.num_bytes
    machine = replace(GPU, device_bytes=needed - 1)
    remedy = nearest_that_fits(config, tiny_model_path, tiny, machine)
    assert remedy is not None
    assert remedy.changes == {"engine.zero_stage": 2}


def test_rows_are_shortened_last_and_counted(tiny_model_path: Path) -> None:
    rows = TrainingRows(lengths=[4_000] * 3 + [500] * 5, num_loss_tokens=[40] * 8)
    config = config_of(
        engine={"gradient_checkpointing": "on"},
        launch={"num_processes": 1},
        batch={"global_batch_size": 4, "max_seq_len": 4_000},
    )
    needed = estimate_training(config, tiny_model_path, rows, CPU).host_memory.num_bytes
    remedy = nearest_that_fits(config, tiny_model_path, rows, with_bytes(CPU, needed * 0.6))
    assert remedy is not None
    assert remedy.changes == {"batch.max_seq_len": 2_000}
    assert remedy.num_dropped == 3
    assert "3 rows would be too long" in str(remedy)


def test_where_nothing_helps_the_hint_says_how_much_is_missing(tiny_model_path: Path) -> None:
    config, nothing = config_of(), with_bytes(CPU, 1_000)
    estimate = told(tiny_model_path, config, nothing)
    with pytest.raises(ConfigError, match="'sft'") as caught:
        check(estimate, config, tiny_model_path, ROWS, nothing)
    assert caught.value.hint is not None
    assert "No setting makes it fit" in caught.value.hint


def test_the_check_can_warn_or_be_off(
    tiny_model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = with_bytes(CPU, 1_000)
    with caplog.at_level(logging.WARNING):
        for mode in ("off", "warn"):
            config = config_of(engine={"check_memory": mode})
            estimate = told(tiny_model_path, config, nothing)
            check(estimate, config, tiny_model_path, ROWS, nothing)
    assert len(caplog.records) == 1
    assert "is estimated to take" in caplog.text


def test_without_rows_there_is_no_estimate(tiny_model_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        estimate_training(config_of(), tiny_model_path, TrainingRows.of_length(0, 1, 1), CPU)


def test_an_estimate_is_saved_and_read_as_json(tiny_model_path: Path) -> None:
    estimate = told(tiny_model_path, config_of())
    assert TrainingEstimate.model_validate_json(estimate.model_dump_json()) == estimate
