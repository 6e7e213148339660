"""The parts of the local stack: how each is started, and how one sees that it works."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deployments.stack import s3
from deployments.stack.http import HttpError, request_json
from deployments.stack.ports import HOST
from deployments.stack.processes import MARK_VARIABLE, ProcessRecord, mark

S3 = "s3"
BUCKET = "raftline"
PREFECT = "prefect"
WORK_POOLS = ("cpu", "gpu")

_KEPT_PREFECT_VARIABLES = ("PREFECT_LOGGING_",)


@dataclass(frozen=True, kw_only=True)
class Component:
    """One long-running process."""

    name: str
    address: str
    """What it serves or, for a worker, the API it uses."""
    command: list[str]
    environment: dict[str, str]
    is_healthy: Callable[[ProcessRecord], bool]
    start_timeout_seconds: float
    prepare: Callable[[], None] = lambda: None
    """Done before every start, while no process of the component is left."""


def worker_name(pool: str) -> str:
    """Component name of a pool's worker."""
    return f"worker-{pool}"


def component_names() -> tuple[str, ...]:
    """All components, in the order in which they start."""
    return (S3, PREFECT, *(worker_name(pool) for pool in WORK_POOLS))


def base_environment(home: Path) -> dict[str, str]:
    """Our environment as every component gets it.

    Prefect variables of the user (another server's address, an API key, a database) would reach
    into the stack, so they stay out, except those about logging. This interpreter's scripts come
    first on the path: training starts programs from there.
    """
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PREFECT_") or key.startswith(_KEPT_PREFECT_VARIABLES)
    }
    scripts = sysconfig.get_path("scripts")
    environment["PATH"] = os.pathsep.join([scripts, environment.get("PATH", os.defpath)])
    environment["RAFTLINE_HOME"] = str(home)
    return environment


def client_environment(home: Path, api_url: str) -> dict[str, str]:
    """Variables that point a Prefect client, and the flows it runs, at the stack."""
    without_proxy = [os.environ.get("NO_PROXY") or os.environ.get("no_proxy", ""), HOST]
    no_proxy = ",".join(part for part in without_proxy if part)
    return {
        "RAFTLINE_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        # The server answers 503 while its SQLite file is locked, which takes a while under load.
        "PREFECT_CLIENT_MAX_RETRIES": "10",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def s3_component(home: Path, port: int, access_key_id: str, secret_access_key: str) -> Component:
    """The S3 server over `<home>/s3`."""
    address = f"http://{HOST}:{port}"
    environment = s3.serve_environment(access_key_id, secret_access_key)
    environment[MARK_VARIABLE] = mark(home, S3)
    return Component(
        name=S3,
        address=address,
        command=s3.serve_command(home / "s3", port),
        environment=environment,
        is_healthy=lambda _: s3.answers_to(address, access_key_id, secret_access_key),
        start_timeout_seconds=s3.START_TIMEOUT_SECONDS,
        prepare=lambda: s3.prepare(home / "s3", BUCKET),
    )


def prefect_component(home: Path, port: int) -> Component:
    """The Prefect server with SQLite under `<home>/prefect`."""
    address = f"http://{HOST}:{port}"
    environment = base_environment(home) | client_environment(home, f"{address}/api")
    environment |= {
        MARK_VARIABLE: mark(home, PREFECT),
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Kept in memory, a restart of the server would crash every run that holds a lease.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
    }
    command = [sys.executable, "-m", "prefect", "server", "start"]
    return Component(
        name=PREFECT,
        address=address,
        command=[*command, "--host", HOST, "--port", str(port)],
        environment=environment,
        is_healthy=lambda _: _answers(f"{address}/api/ready"),
        start_timeout_seconds=120,
    )


def worker_component(home: Path, api_url: str, pool: str) -> Component:
    """The process worker of one work pool."""
    name = worker_name(pool)
    registered_name = f"local-{pool}"
    environment = base_environment(home) | client_environment(home, api_url)
    environment |= {
        MARK_VARIABLE: mark(home, name),
        # Runs wait at most this long to be picked up; Prefect's 10 s suit a fleet, not a laptop.
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    command = [sys.executable, "-m", "prefect", "worker", "start"]
    return Component(
        name=name,
        address=api_url,
        command=[*command, "--pool", pool, "--type", "process", "--name", registered_name],
        environment=environment,
        is_healthy=lambda process: _is_online(api_url, pool, registered_name, process),
        start_timeout_seconds=90,
    )


def _answers(url: str) -> bool:
    try:
        request_json(url, timeout_seconds=2, patience_seconds=0)
    except HttpError:
        return False
    return True


def _is_online(api_url: str, pool: str, name: str, process: ProcessRecord) -> bool:
    """Whether the server has heard from this worker process, not only from one before it."""
    try:
        workers = request_json(
            f"{api_url}/work_pools/{pool}/workers/filter", {}, patience_seconds=0
        )
    except HttpError:
        return False
    return any(
        worker["name"] == name
        and worker["status"] == "ONLINE"
        and datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() >= process.created
        for worker in workers
    )
