"""What a training would run on: how much memory it has free, and how fast it computes."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline_lib.raft.extrapolation import Quantity

Precision = Literal["bf16", "fp16", "fp32"]

_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = "max"
_PROBE_SECONDS = 0.3
_PROBE_ROWS = 512
_PROBE_BYTES = 256_000_000
"""Far more than caches hold."""
_MFU = Quantity(value=0.38, low=0.15, high=0.58)
"""Share of a GPU's peak that fine-tuning reaches. Published for 7B to 8B models on H100: 0.33 to
0.43 (torchtitan's llama3_h100 benchmarks, NeMo AutoModel's LoRA), 0.58 at best; little models and
short rows reach less."""
_BANDWIDTH_SHARE = Quantity(value=0.6, low=0.25, high=0.9)
"""Share of a memory's speed that reading weights reaches."""
_GPU_BANDWIDTH: tuple[tuple[str, float], ...] = (
    ("GB200", 8000),
    ("B200", 8000),
    ("H200", 4800),
    ("GH200", 4000),
    ("H100 PCIe", 2000),
    ("H100 NVL", 3900),
    ("H100", 3350),
    ("H800", 3350),
    ("A100", 1555),
    ("A800", 1555),
    ("L40S", 864),
    ("L40", 864),
    ("L4", 300),
    ("A40", 696),
    ("A30", 933),
    ("A10G", 600),
    ("A10", 600),
)
"""Of a GPU's memory in 10^9 bytes per second, by words of the device's name; the first that are in
it count. From NVIDIA's data sheets, the slowest where a name has several."""
_CPU_SHARE = Quantity(value=0.5, low=0.2, high=0.9)
"""Share of the speed of large matrix products: norms, rotations and attention are slower."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One node; all nodes are alike."""

    device: Literal["cpu", "cuda"]
    name: str
    device_bytes: int
    """Free on one GPU; on CPU the memory that is free on the node."""
    host_bytes: int
    """Free on the node."""
    precision: Precision
    """What 'auto' means here."""


LAUNCH_SECONDS = Quantity(value=1.5e-3, low=0.5e-3, high=4e-3)
"""Of a layer's forward and backward pass on a GPU at least, however little there is to compute:
some 250 kernels are started one after the other, at 2 to 16 microseconds each."""


def this_machine() -> Hardware:
    """The machine that this process runs on, and what is free on it now."""
    import torch

    from pipeline_lib.generation.hardware import best_device, best_precision

    device = best_device()
    precision = best_precision(device)
    host_bytes = available_host_bytes()
    if device.type == "cpu":
        return Hardware(
            device="cpu",
            name=str(torch.cpu.get_capabilities().get("cpu_name", "CPU")),
            device_bytes=host_bytes,
            host_bytes=host_bytes,
            precision=precision,
        )
    count = torch.cuda.device_count()
    return Hardware(
        device="cuda",
        name=torch.cuda.get_device_name(0),
        device_bytes=min(torch.cuda.mem_get_info(index)[0] for index in range(count)),
        host_bytes=host_bytes,
        precision=precision,
    )


def available_host_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that a new process can have: what the system has free, or what a container may.

    Args:
        cgroup: folder of the process' control group (version 2).
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = cgroup / "memory.max"
    if not limit.is_file() or limit.read_text().strip() == _UNLIMITED:
        return free
    used = int((cgroup / "memory.current").read_text())
    statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    # Pages of files that were read are given back when somebody needs the memory.
    used -= int(statistics.get("inactive_file", 0))
    return max(0, min(free, int(limit.read_text()) - used))


def flops_per_second(
    hardware: Hardware, precision: Precision, width: int, num_processes: int
) -> Quantity | None:
    """What one rank is expected to compute in a second; `None` where that is not known.

    A known GPU's peak times the share of it that trainings reach; on this machine's CPU, a measured
    one (see `probe_cpu`).

    Args:
        hardware: that it runs on.
        precision: of the matrix products.
        width: of the model: matrices of its size are multiplied on a CPU.
        num_processes: ranks on the node.
    """
    from pipeline_lib.training.meter import peak_flops

    if hardware.device == "cpu":
        return _scaled(_CPU_SHARE, probe_cpu(precision, width) / num_processes)
    peak = peak_flops(hardware.name, precision)
    return _scaled(_MFU, peak) if peak else None


def probe_cpu(precision: Precision, width: int) -> float:
    """Operations per second of this machine's CPU, all of its cores, in products of matrices.

    Measured for a third of a second. The fastest product counts: others may have had to share the
    cores with another process.
    """
    import torch

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    left = torch.ones(_PROBE_ROWS, width, dtype=dtypes[precision])
    right = torch.ones(width, 4 * width, dtype=dtypes[precision])
    torch.mm(left, right)  # the first call chooses a kernel
    fastest, end = math.inf, time.perf_counter() + _PROBE_SECONDS
    while (began := time.perf_counter()) < end:
        torch.mm(left, right)
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * _PROBE_ROWS * width * 4 * width / fastest


def bytes_per_second(hardware: Hardware, num_processes: int) -> Quantity | None:
    """What one rank is expected to read from memory in a second; `None` where that is not known.

    Args:
        hardware: that it runs on.
        num_processes: ranks on the node, which share a CPU's memory.
    """
    if hardware.device == "cpu":
        return _scaled(_BANDWIDTH_SHARE, probe_memory() / num_processes)
    name = hardware.name
    known = (speed for words, speed in _GPU_BANDWIDTH if re.search(rf"\b{words}\b", name))
    speed = next(known, None)
    return None if speed is None else _scaled(_BANDWIDTH_SHARE, speed * 1e9)


def probe_memory() -> float:
    """Bytes per second that this machine's CPU reads, all of its cores, from memory.

    Measured for a third of a second; the fastest time counts, as in `probe_cpu`.
    """
    import torch

    values = torch.ones(_PROBE_BYTES // 4)
    fastest, end = math.inf, time.perf_counter() + _PROBE_SECONDS
    while (began := time.perf_counter()) < end:
        values.sum()
        fastest = min(fastest, time.perf_counter() - began)
    return _PROBE_BYTES / fastest


def _scaled(share: Quantity, by: float) -> Quantity:
    return Quantity(value=share.value * by, low=share.low * by, high=share.high * by)
