"""`up`, `down` and `status` of the local stack.

`up` can be repeated at any time: what works stays, what is dead starts again, what was interrupted
is finished. Everything lies under one folder (`home`), and only processes that were started for
that folder are ever ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import BaseFileLock, FileLock, Timeout

from deployments.stack import components as parts
from deployments.stack.components import Component
from deployments.stack.flow_runs import close_flow_runs
from deployments.stack.http import HttpError, request_json
from deployments.stack.ports import HOST, free_port, is_free
from deployments.stack.processes import ProcessRecord, end, find, log_tail, mark, marked, spawn
from deployments.stack.registration import Registration, code_digest
from deployments.stack.s3 import generate_credentials
from deployments.stack.state import (
    ENVIRONMENT_FILE,
    ComponentRecord,
    StackState,
    read_environment,
    write_environment,
)
from pipeline_lib.errors import StackError
from pipeline_lib.progress import NullProgress, Progress, phase

PROJECT_ROOT = Path(__file__).resolve().parents[2]

_LOCK_TIMEOUT_SECONDS = 300.0
_WORKER_GRACE_SECONDS = 30.0
"""Long enough for a cancelled training to end its ranks and report."""
_SERVER_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.2

ComponentState = Literal["healthy", "not answering", "dead", "stopped"]


@dataclass(frozen=True, kw_only=True)
class ComponentStatus:
    """Where one component stands."""

    name: str
    state: ComponentState
    """`dead`: it was started and has ended by itself; `stopped`: it was never started, or ended
    by `down`."""
    address: str | None
    pid: int | None
    since: datetime | None
    """When it was started (UTC)."""
    log: Path


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """What `down` ended."""

    num_processes: int
    num_flow_runs: int
    """Those that were under way; they are Cancelled now."""


@dataclass
class _Awaited:
    """A component on its way to being healthy."""

    component: Component
    record: ComponentRecord
    deadline: float
    is_new: bool


class LocalStack:
    """S3, Prefect server, work pools and workers on loopback, under one folder.

    Args:
        home: the folder; created when missing.
        progress: told what is being waited for.
    """

    def __init__(self, home: Path, *, progress: Progress | None = None) -> None:
        self.home = home.expanduser().resolve()
        self._progress = progress or NullProgress()

    @property
    def ui_url(self) -> str | None:
        """Address of the Prefect UI, known since the first start."""
        record = StackState.load(self.home).components.get(parts.PREFECT)
        return record.address if record else None

    @property
    def environment_file(self) -> Path:
        """The file with the addresses and credentials."""
        return self.home / ENVIRONMENT_FILE

    def log_path(self, component: str) -> Path:
        """Where a component's output goes."""
        return self.home / "logs" / f"{component}.log"

    def client_environment(self) -> dict[str, str]:
        """Variables that point a Prefect client, and the flows it runs, at this stack.

        Raises:
            StackError: the stack was never started.
        """
        api_url = read_environment(self.home).get("PREFECT_API_URL")
        if api_url is None:
            raise StackError(
                f"There is no local stack in {self.home}", hint="Start one: raftline up"
            )
        return parts.client_environment(self.home, api_url)

    def up(self) -> None:
        """Start what is not healthy, and wait until everything is.

        Raises:
            StackError: a component ended or did not get ready in time; carries its log's end.
        """
        num_parts = len(parts.component_names()) + 1
        with self._exclusive(), phase(self._progress, "Starting", num_parts, "parts"):
            self.home.chmod(0o700)  # credentials, documents, Prefect's database
            state = StackState.load(self.home)
            with ExitStack() as cleanup:
                self._up(state, cleanup)

    def down(self) -> Stopped:
        """End everything that `up` started, flow runs included; the data stays."""
        with self._exclusive(), phase(self._progress, "Stopping", None, "processes") as progress:
            state = StackState.load(self.home)
            workers = [parts.worker_name(pool) for pool in parts.WORK_POOLS]
            num_flow_runs = self._num_flow_runs(state, workers)
            num_ended = self._end(state, workers, _WORKER_GRACE_SECONDS)
            if parts.PREFECT in state.components:
                close_flow_runs(f"{state.components[parts.PREFECT].address}/api", parts.WORK_POOLS)
            # Only now: what the runs had to report and to store, they could.
            num_ended += self._end(state, [parts.PREFECT, parts.S3], _SERVER_GRACE_SECONDS)
            progress.advance(num_ended)
            state.components.clear()
            state.save(self.home)
        return Stopped(num_processes=num_ended, num_flow_runs=num_flow_runs)

    def status(self) -> list[ComponentStatus]:
        """Where every component stands; asks each of them."""
        state = StackState.load(self.home)
        return [self._status(state, name) for name in parts.component_names()]

    # Starting

    def _up(self, state: StackState, cleanup: ExitStack) -> None:
        digest = code_digest(PROJECT_ROOT)
        registration = None
        access_key_id, secret_access_key = self._credentials()
        s3 = parts.s3_component(
            self.home, self._port(state, parts.S3), access_key_id, secret_access_key
        )
        prefect = parts.prefect_component(self.home, self._port(state, parts.PREFECT))
        api_url = f"{prefect.address}/api"
        write_environment(
            self.home,
            {
                "RAFTLINE_S3_ENDPOINT_URL": s3.address,
                "RAFTLINE_S3_ACCESS_KEY_ID": access_key_id,
                "RAFTLINE_S3_SECRET_ACCESS_KEY": secret_access_key,
                "RAFTLINE_S3_BUCKET": parts.BUCKET,
                "PREFECT_API_URL": api_url,
            },
        )
        awaited = [self._ensure_started(state, each) for each in (prefect, s3)]
        if state.deployed_digest != digest:
            registration = cleanup.enter_context(self._registration(api_url))
        self._wait(state, awaited)

        if registration is None and not self._deployments_exist(state, api_url):
            registration = cleanup.enter_context(self._registration(api_url))
        if registration is not None:
            self._progress.note("registering deployments")
            state.deployments = registration.finish()
            state.deployed_digest = digest
            state.save(self.home)
        self._progress.advance()

        # Not before: a worker that finds no work pool makes one, without its limit.
        workers = [parts.worker_component(self.home, api_url, pool) for pool in parts.WORK_POOLS]
        self._wait(state, [self._ensure_started(state, each) for each in workers])

    def _ensure_started(self, state: StackState, component: Component) -> _Awaited:
        record = state.components.get(component.name)
        deadline = time.monotonic() + component.start_timeout_seconds
        if record and find(record.process) and record.address == component.address:
            return _Awaited(component, record, deadline, is_new=False)
        return self._start(state, component)

    def _start(self, state: StackState, component: Component) -> _Awaited:
        self._end_leftovers(state, component)
        component.prepare()
        process = spawn(
            component.command,
            environment=component.environment,
            log_path=self.log_path(component.name),
            cwd=PROJECT_ROOT,
        )
        record = ComponentRecord(process=process, address=component.address)
        state.components[component.name] = record
        state.save(self.home)
        deadline = time.monotonic() + component.start_timeout_seconds
        return _Awaited(component, record, deadline, is_new=True)

    def _wait(self, state: StackState, awaited: list[_Awaited]) -> None:
        """Wait until all are healthy; one that was there before gets a second life."""
        noted = 0.0
        while awaited:
            for item in list(awaited):
                name = item.component.name
                if item.component.is_healthy(item.record.process):
                    awaited.remove(item)
                    self._progress.advance()
                    continue
                is_alive = find(item.record.process) is not None
                if is_alive and time.monotonic() < item.deadline:
                    continue
                if item.is_new:
                    problem = "did not get ready in time" if is_alive else "ended while starting"
                    raise self._failure(name, problem)
                awaited[awaited.index(item)] = self._start(state, item.component)
            if awaited:
                if time.monotonic() - noted > 1:
                    noted = time.monotonic()
                    self._progress.note(
                        "waiting for " + ", ".join(item.component.name for item in awaited)
                    )
                time.sleep(_POLL_SECONDS)

    def _failure(self, component: str, problem: str) -> StackError:
        log = self.log_path(component)
        return StackError(
            f"{component} {problem}. The end of its log:\n{log_tail(log)}",
            hint=f"The whole log is {log}. Try again: raftline up",
        )

    def _registration(self, api_url: str) -> Registration:
        environment = parts.base_environment(self.home)
        environment |= parts.client_environment(self.home, api_url)
        return Registration(PROJECT_ROOT, environment, self.log_path("deployments"))

    def _deployments_exist(self, state: StackState, api_url: str) -> bool:
        try:
            found = request_json(f"{api_url}/deployments/filter", {"limit": 200})
        except HttpError as error:
            raise StackError(f"Could not list the deployments: {error}") from error
        names = {deployment["name"] for deployment in found}
        return all(name.rpartition("/")[2] in names for name in state.deployments)

    def _credentials(self) -> tuple[str, str]:
        """Those of the last start, so that running flows keep their access; else new ones."""
        known = read_environment(self.home)
        key, secret = "RAFTLINE_S3_ACCESS_KEY_ID", "RAFTLINE_S3_SECRET_ACCESS_KEY"
        if known.get(key) and known.get(secret):
            return known[key], known[secret]
        return generate_credentials()

    def _port(self, state: StackState, name: str) -> int:
        """The port it has or had last, unless somebody else took it meanwhile."""
        record = state.components.get(name)
        if record and find(record.process):
            return _port_of(record.address)
        self._end(state, [name], _SERVER_GRACE_SECONDS)  # what a lost record left behind
        last = state.ports.get(name)
        state.ports[name] = last if last and is_free(last) else free_port()
        return state.ports[name]

    # Ending

    def _end_leftovers(self, state: StackState, component: Component) -> None:
        """End what is in the way of a new process.

        Of a worker that died, that is not the flow runs it has left: they may well finish.
        """
        record = state.components.get(component.name)
        same_command = marked([mark(self.home, component.name)], component.command)
        records = [ProcessRecord.of(process) for process in same_command]
        if record:
            records.append(record.process)
        end(records, [], grace_seconds=_SERVER_GRACE_SECONDS)

    def _end(self, state: StackState, names: Sequence[str], grace_seconds: float) -> int:
        records = [state.components[name].process for name in names if name in state.components]
        marks = [mark(self.home, name) for name in names]
        return end(records, marks, grace_seconds=grace_seconds)

    def _num_flow_runs(self, state: StackState, workers: Sequence[str]) -> int:
        """Processes right below a worker, or left by one that died."""
        worker_pids = {
            state.components[name].process.pid for name in workers if name in state.components
        }
        everything = marked(mark(self.home, name) for name in workers)
        pids = {process.pid for process in everything}
        return sum(
            process.pid not in worker_pids
            and (process.ppid() in worker_pids or process.ppid() not in pids)
            for process in everything
            if process.is_running()
        )

    # Looking

    def _status(self, state: StackState, name: str) -> ComponentStatus:
        record = state.components.get(name)
        process = find(record.process) if record else None
        health: ComponentState = "stopped" if record is None else "dead"
        if record and process:
            component = self._rebuilt(name, record)
            is_healthy = component.is_healthy(record.process)
            health = "healthy" if is_healthy else "not answering"
        return ComponentStatus(
            name=name,
            state=health,
            address=record.address if record else None,
            pid=process.pid if process else None,
            since=record.started_at if record and process else None,
            log=self.log_path(name),
        )

    def _rebuilt(self, name: str, record: ComponentRecord) -> Component:
        if name == parts.S3:
            return parts.s3_component(self.home, _port_of(record.address), *self._credentials())
        if name == parts.PREFECT:
            return parts.prefect_component(self.home, _port_of(record.address))
        return parts.worker_component(self.home, record.address, name.removeprefix("worker-"))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the stack's lock: one `up` or `down` at a time."""
        self.home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.home / "stack.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._await_lock(lock)
        try:
            yield
        finally:
            lock.release()

    def _await_lock(self, lock: BaseFileLock) -> None:
        with phase(self._progress, "Waiting for another `raftline up` or `down`", None, "s"):
            try:
                lock.acquire(timeout=_LOCK_TIMEOUT_SECONDS)
            except Timeout as error:
                raise StackError(
                    f"Another `raftline up` or `down` has held {lock.lock_file} for "
                    f"{_LOCK_TIMEOUT_SECONDS:.0f} s",
                    hint="Wait for it, or end it, and try again.",
                ) from error


def _port_of(address: str) -> int:
    return int(address.removeprefix(f"http://{HOST}:").partition("/")[0])
