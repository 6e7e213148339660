"""Which device and which number format a model in this process should use."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

_CPU_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
_TRIED_SIZE = 512
_TRIED_TIMES = 8
_TOLERATED_SLOWNESS = 1.25
"""bfloat16 takes half the memory, and half the time where memory is what is waited for."""


def best_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where `device` computes in it natively and not slower than in float32, else float32.

    Of processors that is measured, once in each process: Intel's without AMX multiply bfloat16
    numbers half as fast as float32, those with AMX many times as fast, AMD's Zen 4 and 5 two to
    three times as fast.
    """
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    is_native = any(capabilities.get(flag) for flag in _CPU_BF16_FLAGS)
    is_fast = is_native and _slowness_of_bf16() <= _TOLERATED_SLOWNESS
    return torch.bfloat16 if is_fast else torch.float32


def best_precision(device: torch.device) -> Literal["bf16", "fp32"]:
    """`best_dtype` as configurations call it."""
    import torch

    return "bf16" if best_dtype(device) == torch.bfloat16 else "fp32"


@functools.cache
def _slowness_of_bf16() -> float:
    """Time of a matrix product in bfloat16 over that in float32, on this processor."""
    import torch

    best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    factors = {dtype: torch.ones(_TRIED_SIZE, _TRIED_SIZE, dtype=dtype) for dtype in best}
    for _ in range(_TRIED_TIMES):  # in turns, so that what else runs slows both
        for dtype, factor in factors.items():
            started = time.perf_counter()
            torch.mm(factor, factor)
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.bfloat16] / best[torch.float32]
