"""DeepSpeed's hostfile, and starting the other nodes over SSH as it says.

A line is `host slots=n`; what follows a `#` is a comment. The first host is the machine of the
process that owns the training, the others run `raftline join`. They find the object store by their
own settings: no secret travels on a command line, where every user of a machine can read it.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from pipeline_lib.config import LaunchConfig
from pipeline_lib.errors import ConfigError, TrainingError
from pipeline_lib.training.presence import OtherNodes
from pipeline_lib.training.processes import ProcessGroup

logger = logging.getLogger(__name__)

SSH = ("ssh", "-tt", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15")
"""With a terminal, so that what it started ends when the connection does."""
_LINE = re.compile(r"(?P<host>\S+)\s+slots\s*=\s*(?P<slots>\d+)")
_TAIL_BYTES = 2000
_LEAVE_SECONDS = 15.0


@dataclass(frozen=True)
class Host:
    """One line of a hostfile."""

    name: str
    slots: int
    """Ranks that it takes."""


def parse_hostfile(text: str, source: str = "hostfile") -> list[Host]:
    """The hosts in their order.

    Raises:
        ConfigError: a line is not `host slots=n`, a host comes twice, or there is none.
    """
    hosts: list[Host] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = _LINE.fullmatch(content)
        if match is None or int(match["slots"]) == 0:
            raise ConfigError(
                f"{source}, line {number}: {content!r} is not 'host slots=n'",
                hint="For example: gpu-node-1 slots=8",
            )
        if any(host.name == match["host"] for host in hosts):
            raise ConfigError(f"{source}, line {number}: {match['host']!r} comes twice")
        hosts.append(Host(match["host"], int(match["slots"])))
    if not hosts:
        raise ConfigError(f"{source} names no host", hint="For example: gpu-node-1 slots=8")
    return hosts


def hosts_of(launch: LaunchConfig) -> list[Host]:
    """The hosts of a launch, which must be as many and take as many ranks as it says.

    Raises:
        ConfigError: the file cannot be read, or says something else.
    """
    path = Path(launch.hostfile or "")
    try:
        hosts = parse_hostfile(path.read_text(), str(path))
    except OSError as error:
        raise ConfigError(f"The hostfile {path} cannot be read: {error.strerror}") from error
    if len(hosts) != launch.num_nodes:
        raise ConfigError(
            f"{path} names {len(hosts)} hosts, but finetune.launch.num_nodes is {launch.num_nodes}",
            hint=f"Set num_nodes to {len(hosts)}, or change the file.",
        )
    for host in hosts:
        if host.slots != launch.num_processes:
            raise ConfigError(
                f"{path} gives {host.name} {host.slots} slots, but every node runs "
                f"{launch.num_processes} ranks (finetune.launch.num_processes)",
                hint="Every node has the same number of ranks: change one of the two.",
            )
    return hosts


def meeting_point(launch: LaunchConfig, hosts: Sequence[Host]) -> str:
    """`launch.address`, or a free port on the first host where that leaves it open."""
    if not launch.address.endswith(":0"):
        return launch.address
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{hosts[0].name}:{probe.getsockname()[1]}"


class RemoteNodes:
    """The commands on the other hosts, while they run; by the number of the node."""

    def __init__(self, running: Mapping[int, RemoteCommand]) -> None:
        self._running = running

    def check(self, others: OtherNodes) -> None:
        """See whether all of them still run or have ended well; `others` hears of the rest.

        Raises:
            TrainingError: one failed before it had joined; ends with what it printed.
        """
        for node, command in self._running.items():
            if command.process.poll() and not others.has_ended(node):
                raise command.failure()


@dataclass(frozen=True)
class RemoteCommand:
    """What runs on one host."""

    host: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def failure(self) -> TrainingError:
        """It has ended with an exit code that is not 0."""
        self.output.seek(0)
        said = self.output.read()[-_TAIL_BYTES:].decode(errors="replace").strip()
        return TrainingError(
            f"Host {self.host} could not take part: its command ended with exit code "
            f"{self.process.returncode}.\n{said}",
            hint=f"Try: ssh {self.host} true; the same virtual environment and folder must be "
            "there, and settings that lead to the object store.",
        )


@contextmanager
def joined_hosts(
    hosts: Sequence[Host], reference: str, remote_shell: Sequence[str] = SSH
) -> Iterator[RemoteNodes]:
    """Have every host but the first join a training for as long as the block runs.

    Args:
        hosts: of the hostfile.
        reference: of the model being made.
        remote_shell: a command that takes a host and a command line to run there.
    """
    with ExitStack() as stack:
        running = {}
        for rank, host in enumerate(hosts[1:], start=1):
            output = stack.enter_context(TemporaryFile())
            process = subprocess.Popen(
                [*remote_shell, host.name, join_command(reference, rank, host.name)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_end, process)
            running[rank] = RemoteCommand(host.name, process, output)
            logger.info("Host %s is told to join as node %d", host.name, rank)
        yield RemoteNodes(running)


def join_command(reference: str, rank: int, host: str) -> str:
    """What the other host runs, in the same folder and environment as this process has."""
    program = Path(sys.executable).with_name("raftline")
    words = [str(program), "join", reference, "--node-rank", str(rank), "--local-address", host]
    home = os.environ.get("RAFTLINE_HOME")
    setting = f"RAFTLINE_HOME={shlex.quote(home)} " if home else ""
    return f"cd {shlex.quote(str(Path.cwd()))} && {setting}exec {shlex.join(words)}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """It ends by itself soon after the training; if it does not, it is ended."""
    try:
        process.wait(timeout=_LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        ProcessGroup(process).end(grace_seconds=0, on_wait=lambda: None)
