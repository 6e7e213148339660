"""The real local stack: started once, disturbed in every way that happens, ended.

The tests build on each other in this order; together they take about a minute.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.stack.http import request_json
from deployments.stack.local import LocalStack
from deployments.stack.ports import free_port
from deployments.stack.processes import ProcessRecord, mark, marked
from deployments.stack.s3 import answers_to
from deployments.stack.state import ComponentRecord, StackState, read_environment
from pipeline_lib.errors import StackError

pytestmark = pytest.mark.slow

RAFTLINE = [sys.executable, "-c", "from deployments.cli.main import main; main()"]
COMPONENTS = ["s3", "prefect", "worker-cpu", "worker-gpu"]
SLOW_FLOW = """
import subprocess, sys
from pathlib import Path
from prefect import flow

@flow
def slow():
    command = [sys.executable, "-c", "import time; time.sleep(300)"]
    child = subprocess.Popen(command, start_new_session=True)
    Path("part").write_text(str(child.pid))
    Path("part").rename("pid")
    child.wait()
"""


@pytest.fixture(scope="module")
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, taken_port: int) -> Iterator[LocalStack]:
    """Started over a stale pid file, with the port of S3 taken meanwhile."""
    home = tmp_path_factory.mktemp("stack") / "home"
    gone = ComponentRecord(
        process=ProcessRecord(pid=2**22 - 1, created=1.0), address=f"http://127.0.0.1:{taken_port}"
    )
    home.mkdir()
    StackState(
        ports={"s3": taken_port, "prefect": free_port()}, components={"s3": gone, "prefect": gone}
    ).save(home)
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("RAFTLINE_S3_")]:
            environment.delenv(name)
        # Would keep the server from starting, and send the workers elsewhere.
        environment.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
        environment.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://nowhere")
        stack = LocalStack(home)
        try:
            stack.up()
            yield stack
        finally:
            stack.down()


def _pids(stack: LocalStack) -> dict[str, int | None]:
    return {component.name: component.pid for component in stack.status()}


def _states(stack: LocalStack) -> dict[str, str]:
    return {component.name: component.state for component in stack.status()}


def _cli(stack: LocalStack, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAFTLINE_HOME": str(stack.home)}
    command = [*RAFTLINE, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def _is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _api(stack: LocalStack) -> str:
    return read_environment(stack.home)["PREFECT_API_URL"]


def test_a_stale_pid_file_and_a_taken_port_do_not_stop_it(
    stack: LocalStack, taken_port: int
) -> None:
    assert _states(stack) == dict.fromkeys(COMPONENTS, "healthy")
    state = StackState.load(stack.home)
    assert state.components["s3"].address != f"http://127.0.0.1:{taken_port}"
    assert state.components["prefect"].address == f"http://127.0.0.1:{state.ports['prefect']}"


def test_its_services_listen_on_loopback_only(stack: LocalStack) -> None:
    for component in ("s3", "prefect"):
        process = psutil.Process(StackState.load(stack.home).components[component].process.pid)
        listening = [c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"]
        assert listening == ["127.0.0.1"]


def test_credentials_are_in_a_private_file_and_on_no_command_line(stack: LocalStack) -> None:
    assert stat.S_IMODE(stack.environment_file.stat().st_mode) == 0o600
    variables = read_environment(stack.home)
    secret = variables["RAFTLINE_S3_SECRET_ACCESS_KEY"]
    assert secret not in (stack.home / "stack.json").read_text()
    for process in marked(mark(stack.home, name) for name in COMPONENTS):
        assert secret not in " ".join(process.cmdline())
    assert answers_to(
        variables["RAFTLINE_S3_ENDPOINT_URL"], variables["RAFTLINE_S3_ACCESS_KEY_ID"], secret
    )


def test_the_server_phones_nobody_and_keeps_leases_on_disk(stack: LocalStack) -> None:
    server: dict[str, Any] = request_json(f"{_api(stack)}/admin/settings")["server"]
    assert server["analytics_enabled"] is False
    assert server["ui"]["show_promotional_content"] is False
    assert server["ephemeral"]["enabled"] is False
    assert server["concurrency"]["lease_storage"].endswith("lease_storage.filesystem")
    assert (stack.home / "prefect" / "prefect.db").is_file()


def test_every_deployment_is_registered_and_the_pools_are_served(stack: LocalStack) -> None:
    deployments = request_json(f"{_api(stack)}/deployments/filter", {})
    flows = {each["name"] for each in deployments}
    assert {"pipeline", "ingest", "finetune", "evaluate", "answer"} <= flows
    pools = request_json(f"{_api(stack)}/work_pools/filter", {})
    assert {pool["name"]: (pool["type"], pool["status"]) for pool in pools} == {
        "cpu": ("process", "READY"),
        "gpu": ("process", "READY"),
    }


def test_a_second_up_is_quick_and_changes_nothing(stack: LocalStack) -> None:
    before = _pids(stack)
    started = time.monotonic()
    stack.up()
    assert time.monotonic() - started < 5
    assert _pids(stack) == before


def test_two_ups_at_once_end_with_one_stack(stack: LocalStack) -> None:
    before = _pids(stack)
    environment = {**os.environ, "RAFTLINE_HOME": str(stack.home)}
    ups = [
        subprocess.Popen([*RAFTLINE, "up"], env=environment, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [up.wait(120) for up in ups] == [0, 0]
    assert _pids(stack) == before


def test_status_exits_0_while_all_is_well(stack: LocalStack) -> None:
    done = _cli(stack, "status", "--json")
    assert done.returncode == 0, done.stderr
    assert [each["name"] for each in json.loads(done.stdout)] == COMPONENTS
    assert "healthy" in _cli(stack, "status").stdout


def test_a_killed_s3_is_noticed_and_started_again_with_its_data(stack: LocalStack) -> None:
    before = _pids(stack)
    address = StackState.load(stack.home).components["s3"].address
    (stack.home / "s3" / "raftline" / "kept").write_text("kept")
    os.kill(before["s3"] or 0, 9)
    psutil.wait_procs([psutil.Process(before["s3"])], timeout=5)

    assert _states(stack) == {**dict.fromkeys(COMPONENTS, "healthy"), "s3": "dead"}
    assert _cli(stack, "status").returncode == 1
    stack.up()
    after = _pids(stack)
    assert after.pop("s3") != before.pop("s3")
    assert after == before
    assert StackState.load(stack.home).components["s3"].address == address
    assert (stack.home / "s3" / "raftline" / "kept").read_text() == "kept"


def test_a_recycled_pid_is_neither_trusted_nor_ended(stack: LocalStack) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        state = StackState.load(stack.home)
        ours = state.components["s3"]
        recycled = ProcessRecord(pid=stranger.pid, created=ours.process.created - 3600)
        state.components["s3"] = ours.model_copy(update={"process": recycled})
        state.save(stack.home)
        assert _states(stack)["s3"] == "dead"
        stack.up()
        assert _states(stack)["s3"] == "healthy"
        # The server whose record was lost must not stay behind.
        assert len(marked([mark(stack.home, "s3")])) == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.fixture(scope="module")
def training(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """A flow run under way, whose child has a session of its own: the child's pid, the run's id."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "slow.py").write_text(SLOW_FLOW)
    api, pull = _api(stack), {"directory": str(folder)}
    flow = request_json(f"{api}/flows/", {"name": "slow"})
    deployment = request_json(
        f"{api}/deployments/",
        {
            "name": "slow",
            "flow_id": flow["id"],
            "entrypoint": "slow.py:slow",
            "work_pool_name": "cpu",
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": pull}],
        },
    )
    run = request_json(f"{api}/deployments/{deployment['id']}/create_flow_run", {})
    deadline = time.monotonic() + 90
    while not (folder / "pid").is_file():
        assert time.monotonic() < deadline, stack.log_path("worker-cpu").read_text()
        time.sleep(0.1)
    return int((folder / "pid").read_text()), run["id"]


def test_a_worker_that_dies_is_replaced_and_its_runs_go_on(
    stack: LocalStack, training: tuple[int, str]
) -> None:
    before = _pids(stack)
    os.kill(before["worker-cpu"] or 0, 9)
    psutil.wait_procs([psutil.Process(before["worker-cpu"])], timeout=5)
    stack.up()
    after = _pids(stack)
    assert after.pop("worker-cpu") != before.pop("worker-cpu")
    assert after == before
    assert _is_running(training[0])


def test_down_ends_all_of_its_own_and_nothing_else(
    stack: LocalStack, training: tuple[int, str]
) -> None:
    foreign_mark = {"RAFTLINE_STACK_COMPONENT": mark(stack.home.parent / "other", "s3")}
    command = [sys.executable, "-c", "import time; time.sleep(300)"]
    stranger = subprocess.Popen(command, env={**os.environ, **foreign_mark})
    try:
        done = _cli(stack, "down")
        assert done.returncode == 0
        assert done.stdout.splitlines() == [
            "Flow runs that were under way and have been cancelled: 1. "
            "Run them again: what is finished is reused.",
            "The stack is down.",
        ]
        assert marked(mark(stack.home, name) for name in COMPONENTS) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert not _is_running(training[0])
    with closing(sqlite3.connect(stack.home / "prefect" / "prefect.db")) as database:
        query = "select state_type from flow_run where id = ?"
        assert database.execute(query, (training[1],)).fetchall() == [("CANCELLED",)]
    assert _states(stack) == dict.fromkeys(COMPONENTS, "stopped")
    assert (stack.home / "s3" / "raftline" / "kept").is_file()
    assert _cli(stack, "status").returncode == 1
    assert stack.down().num_processes == 0


def test_a_component_that_cannot_start_is_reported_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.stack import s3

    command = [sys.executable, "-c", "import sys; sys.exit('no space left on device')"]
    monkeypatch.setattr(s3, "serve_command", lambda *_: command)
    stack = LocalStack(tmp_path / "home")
    try:
        with pytest.raises(StackError) as caught:
            stack.up()
    finally:
        stack.down()
    assert caught.value.message.startswith("s3 ended while starting")
    assert "no space left on device" in caught.value.message
    assert str(stack.log_path("s3")) in (caught.value.hint or "")
