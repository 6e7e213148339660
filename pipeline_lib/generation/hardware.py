"""Which device and which number format a model in this process should use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CPU_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")


def best_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where `device` computes in it natively (else it would be emulated), else float32."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = any(capabilities.get(flag) for flag in _CPU_BF16_FLAGS)
    return torch.bfloat16 if has_bf16 else torch.float32
