"""What the local stack remembers: `stack.json` (processes, ports) and `stack.env` (access)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.stack.processes import ProcessRecord

STATE_FILE = "stack.json"
ENVIRONMENT_FILE = "stack.env"


class ComponentRecord(BaseModel):
    """One component that was started."""

    model_config = ConfigDict(frozen=True)

    process: ProcessRecord
    address: str
    """What it serves or, for a worker, the API it was told to use."""

    @property
    def started_at(self) -> datetime:
        """When its process was created (UTC)."""
        return datetime.fromtimestamp(self.process.created, UTC)


class StackState(BaseModel):
    """Content of `stack.json`. Holds no secrets."""

    ports: dict[str, int] = Field(default_factory=dict)
    """Component to the port it had last."""
    components: dict[str, ComponentRecord] = Field(default_factory=dict)
    deployed_digest: str | None = None
    """Of the code whose deployments the Prefect server knows."""
    deployments: tuple[str, ...] = ()
    """Their names, `flow/deployment`."""

    @classmethod
    def load(cls, home: Path) -> StackState:
        """Read the state; a missing or unreadable file is an empty state.

        An unreadable one costs nothing: processes are found again by their mark.
        """
        try:
            return cls.model_validate_json((home / STATE_FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return cls()

    def save(self, home: Path) -> None:
        """Replace the file in one step."""
        write_atomically(home / STATE_FILE, self.model_dump_json(indent=1) + "\n")


def read_environment(home: Path) -> dict[str, str]:
    """The variables in `stack.env`; empty before the first start."""
    try:
        lines = (home / ENVIRONMENT_FILE).read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def write_environment(home: Path, variables: Mapping[str, str]) -> None:
    """Write `stack.env`, readable by its owner only. A shell can source it."""
    lines = ["# Written by `raftline up`. Exported variables win over this file."]
    lines += [f"{key}={value}" for key, value in variables.items()]
    write_atomically(home / ENVIRONMENT_FILE, "\n".join(lines) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step; mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
