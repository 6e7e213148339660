"""Which number format a processor is given: what it has, and what it is fast in."""

import pytest
import torch

from pipeline_lib.generation import hardware

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "slowness", "dtype"),
    [
        ({"avx512_bf16": True}, 0.4, torch.bfloat16),
        ({"amx_bf16": True}, 1.2, torch.bfloat16),
        ({"avx512_bf16": True}, 1.9, torch.float32),
        ({"avx512_bf16": False}, 0.4, torch.float32),
        ({}, 0.4, torch.float32),
    ],
)
def test_a_processor_computes_in_bfloat16_where_it_can_and_that_is_fast(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: dict[str, bool],
    slowness: float,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(hardware, "_slowness_of_bf16", lambda: slowness)
    assert hardware.best_dtype(CPU) == dtype


def test_speeds_are_measured_once() -> None:
    hardware._slowness_of_bf16.cache_clear()
    first = hardware._slowness_of_bf16()
    assert 0.01 < first < 100
    assert hardware._slowness_of_bf16() == first
