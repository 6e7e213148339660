"""The machines of one training: how torchrun on each of them finds the others.

Node 0 is the machine of the process that owns the training. It makes the plan, hears the events and
exports the model, so rank 0 must be on it. With the static rendezvous every node is given its
number. With c10d torchrun numbers the nodes itself, in the order of their addresses; see
`_c10d_arguments` for how node 0 comes first there too.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.training.diagnosis import ENDINGS_FILE
from pipeline_lib.training.guard import PARENT_VARIABLE
from pipeline_lib.training.plan import TrainingPlan
from pipeline_lib.training.processes import WORKER_MODULE

LOOPBACK = "127.0.0.1"
_GUARD_MODULE = "pipeline_lib.training.guard"
_AGENT_MODULE = "pipeline_lib.training.agent"
C_LIBRARY_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 46),
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}
"""For glibc: what a rank has freed it keeps for the next tensor, and as few small blocks as can be
lie between tensors (see `fused.memory`). Given back, each page is mapped and cleared anew, which
took a third of all time; with a cache of small blocks for each thread, a third of all memory was
holes."""
_NOT_WARNED_OF = (
    # torch 2.13 deprecates collectives that DeepSpeed 0.19 calls: a warning per call and rank.
    "ignore::FutureWarning:torch.distributed.c10d_logger",
    # peft 0.21 reads an attribute that transformers 5.23 deprecates.
    "ignore:`is_gradient_checkpointing`:FutureWarning",
)
_NAME_SECONDS = 60.0
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_DEFAULTS_OF_TORCHRUN = "PET_"
"""Kubeflow sets variables with this prefix, which torchrun takes for what it is not told."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of a training."""

    rank: int = 0
    """0: the one that owns the training."""
    run_id: str = "raftline"
    """Tells the machines of one training from those of another."""
    local_address: str | None = None
    """By which the others reach this machine; `None`: as the system finds."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `launch.address`; an IPv6 host stands in brackets.

    Raises:
        ConfigError: it is not `host:port`.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"finetune.launch.address must be host:port, not {address!r}",
            hint="For example '10.0.0.5:29500', or '[fd00::5]:29500'.",
        )
    return host.strip("[]"), int(port)


def command(plan: TrainingPlan, plan_path: Path, node: Node) -> list[str]:
    """What to run on one node; it and all it starts end with the calling process."""
    guarded = [sys.executable, "-m", _GUARD_MODULE]
    launch = plan.config.launch
    if launch.num_nodes == 1 and launch.num_processes == 1:
        return [*guarded, WORKER_MODULE, str(plan_path)]
    return [
        *guarded,
        _AGENT_MODULE,
        str(plan.run_folder / ENDINGS_FILE),
        f"--nproc-per-node={launch.num_processes}",
        f"--nnodes={launch.num_nodes}",
        "--max-restarts=0",
        f"--shutdown-timeout={max(1, launch.grace_seconds)}",
        f"--log-dir={plan.run_folder}",  # else torchrun leaves a folder in the system's own
        *_rendezvous(plan.config, node),
        "-m",
        WORKER_MODULE,
        str(plan_path),
    ]


def _rendezvous(config: FinetuneConfig, node: Node) -> list[str]:
    launch = config.launch
    if launch.num_nodes == 1:
        # It picks a free port of its own; --standalone would look up the host name.
        return [
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={LOOPBACK}:0",
            f"--local-addr={LOOPBACK}",
        ]
    host, port = split_address(launch.address)
    if launch.rendezvous == "c10d":
        return _c10d_arguments(launch.address, host, node, launch.hang_seconds)
    return [
        "--rdzv-backend=static",
        f"--rdzv-id={node.run_id}",
        f"--rdzv-conf=timeout={launch.hang_seconds}",
        f"--node-rank={node.rank}",
        f"--master-addr={launch.address.rpartition(':')[0]}",
        f"--master-port={port}",
        f"--local-addr={node.local_address or local_address_towards(host)}",
    ]


def _c10d_arguments(address: str, host: str, node: Node, patience_seconds: int) -> list[str]:
    """Node 0 hosts the store, and the ranks of node 0 are the first.

    torchrun sorts nodes by their address as text, and takes that of the first for all to connect
    to; the others' serve as names only. A tilde sorts behind whatever an address begins with.
    """
    is_first = node.rank == 0
    own = host if is_first else f"~{node.local_address or local_address_towards(host)}"
    return [
        "--rdzv-backend=c10d",
        f"--rdzv-id={node.run_id}",
        f"--rdzv-endpoint={address}",
        f"--rdzv-conf=is_host={int(is_first)},join_timeout={patience_seconds}",
        f"--local-addr={own}",
    ]


def environment(plan: TrainingPlan, node: Node, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of the ranks of one node.

    Args:
        plan: what they train.
        node: where they are.
        given: the variables of the process that starts them.
    """
    launch = plan.config.launch
    made = {
        name: value
        for name, value in given.items()
        if name not in _OF_TORCHRUN and not name.startswith(_DEFAULTS_OF_TORCHRUN)
    }
    made[PARENT_VARIABLE] = str(os.getpid())
    made.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The model is a folder on this machine: a rank has no business with a hub.
    made.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", PYTHONUNBUFFERED="1")
    made["PYTHONWARNINGS"] = ",".join(_NOT_WARNED_OF)
    made["HF_HOME"] = str(plan.run_folder / "hf")
    if launch.num_nodes == 1 and launch.num_processes == 1:
        # What torchrun would set; port 0: any free one.
        made |= dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK"), "0")
        made |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1")
        made.update(MASTER_ADDR=LOOPBACK, MASTER_PORT="0")
    if plan.device == "cpu":
        threads = max(1, (os.cpu_count() or 1) // launch.num_processes)
        made.setdefault("OMP_NUM_THREADS", str(threads))
        made.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
        # DeepSpeed imports torch's compiler, which nothing uses: a second per rank.
        made.setdefault("TORCHDYNAMO_DISABLE", "1")
        host = LOOPBACK if launch.num_nodes == 1 else split_address(launch.address)[0]
        made["GLOO_SOCKET_IFNAME"] = interface_of(node.local_address or local_address_towards(host))
        for name, value in C_LIBRARY_MEMORY.items():
            made.setdefault(name, value)
    return made


def local_address_towards(host: str, patience_seconds: float = _NAME_SECONDS) -> str:
    """The address of this machine from which packets to a host go out; none is sent.

    Args:
        host: name or address.
        patience_seconds: how long its name may be unknown; that of a pod is made with the pod.

    Raises:
        ConfigError: the host's name is unknown here, or there is no way to it.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return _source_address(host)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"This machine has no way to {host!r} of finetune.launch.address: {error}",
                    hint="Give node 0's address as the other machines see it.",
                ) from error
        time.sleep(1)


def _source_address(host: str) -> str:
    found = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP)
    family, kind, protocol, _, target = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """The network interface that has an address; all of 127.0.0.0/8 is the loopback's.

    Raises:
        ConfigError: none has it.
    """
    wanted = LOOPBACK if address.startswith("127.") else address
    interfaces = psutil.net_if_addrs()
    for name, addresses in interfaces.items():
        if any(each.address.partition("%")[0] == wanted for each in addresses):
            return name
    raise ConfigError(
        f"No network interface of this machine has the address {address}",
        hint="Its interfaces are " + ", ".join(sorted(interfaces)) + ".",
    )
