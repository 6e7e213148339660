"""Where fused layers put large tensors."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from pipeline_lib.training.fused.memory import new_empty
from pipeline_lib.training.nodes import C_LIBRARY_MEMORY

_REUSE = """
import torch
from pipeline_lib.training.fused.memory import new_empty

def resident():
    status = open("/proc/self/status").read()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

like = torch.empty(0, dtype=torch.bfloat16)
tensors = [new_empty(like, 1000, 1536).fill_(1) for _ in range(40)]
before = resident()
del tensors[::2]
tensors += [new_empty(like, 1000, 1536).fill_(2) for _ in range(20)]
print((resident() - before) / tensors[0].nbytes)
assert all(bool((tensor == tensor[0, 0]).all()) for tensor in tensors)
"""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 4096])
def test_it_is_as_torch_makes_it(rows: int, dtype: torch.dtype) -> None:
    like = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    made = new_empty(like, rows, 7, 9, dtype=dtype)
    assert made.shape == (rows, 7, 9)
    assert made.dtype == dtype
    assert made.is_contiguous()
    assert not made.requires_grad
    assert made.data_ptr() % 64 == 0
    assert new_empty(like, rows).dtype == torch.bfloat16
    made.fill_(1)
    assert made.sum() == made.numel()


def test_large_tensors_do_not_overlap() -> None:
    like = torch.zeros(1)
    made = [new_empty(like, 128, 256).fill_(number) for number in range(8)]
    assert [float(tensor.mean()) for tensor in made] == list(range(8))


def test_where_tensors_are_shapes_only_it_is_one_too() -> None:
    with FakeTensorMode():
        made = new_empty(torch.zeros(3), 4096, 4096)
    assert isinstance(made, FakeTensor)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's memory")
def test_a_tensor_takes_the_place_of_one_that_is_gone() -> None:
    """Made by torch, all twenty would take memory anew (glibc 2.36)."""
    done = subprocess.run(
        [sys.executable, "-c", _REUSE],
        env=os.environ | C_LIBRARY_MEMORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 1
