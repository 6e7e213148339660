"""Memory for large tensors on processors, of which the C library loses less.

PyTorch asks for memory by `posix_memalign`. To be sure of the alignment, glibc looks for a block
that is larger than what is asked for, so the place of a tensor that is gone does not take the next
one of its size, and a third of all memory becomes holes. NumPy asks by `malloc`, which takes a
block that just fits; what it takes to be aligned is added here.

Small blocks that glibc keeps for each thread (tcache) would part what else is one free block, so
ranks run without them: see `nodes.C_LIBRARY_MEMORY`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_LARGE_BYTES = 1 << 16
_ALIGNMENT = 64
"""Of a cache line, and of the widest registers."""


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers, and not only a shape, as in an estimate."""
    return type(tensor) in (Tensor, torch.nn.Parameter)


def new_empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """As `like.new_empty(shape, dtype=dtype)`: a tensor of any numbers, where `like` is."""
    dtype = like.dtype if dtype is None else dtype
    num_bytes = math.prod(shape) * dtype.itemsize
    if like.device.type != "cpu" or not is_plain(like) or num_bytes < _LARGE_BYTES:
        return like.new_empty(shape, dtype=dtype)
    block = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return torch.from_numpy(block[start : start + num_bytes]).view(dtype).view(shape)
