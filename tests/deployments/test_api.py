"""The deployments on a real Prefect server, used as any HTTP client uses them.

The runs are executed by the local stack's own worker, in its own process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement

from deployments.deploy import PrefectFile
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.settings import Settings
from pipeline_lib.stage import StageResult, Workspace

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = [f"{spec.name}/{spec.name}" for spec in PrefectFile.load().deployments]


@pytest.fixture(scope="module", autouse=True)
def deployed(deploy: Callable[[], list[str]]) -> list[str]:
    return deploy()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "page.md").write_text("# Otters\n\nSea otters sleep on their backs.\n")
    (folder / "empty.txt").write_text("")
    return folder


@pytest.fixture(scope="module")
def runs(
    api: Any, source: Path, minilm_path: Path, start_worker: Callable[[str], int]
) -> dict[str, str]:
    """Runs that the worker executes side by side, as each takes some seconds to start."""
    start_worker("cpu")
    unchecked = {"enforce_parameter_schema": False}
    requests: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "ingest": (
            "ingest/ingest",
            {"name": "docs", "config": {"sources": [str(source)]}},
            {"name": "asked by a test", "idempotency_key": "ingest-once"},
        ),
        "unknown": ("index/index", {"nme": "docs"}, unchecked),
        "unknown nested": ("promote/promote", {"config": {"metrik": "token_f1"}}, unchecked),
        "inconsistent": (
            "pipeline/pipeline",
            {"config": {"finetune": {"batch": {"micro_batch_size": 3}}}},
            {},
        ),
        "nothing yet": ("evaluate/evaluate", {"name": "docs"}, {}),
    }
    started = {}
    for label, (name, parameters, fields) in requests.items():
        response = api.start(name, parameters, **fields)
        assert response.status_code == 201, response.text
        started[label] = response.json()["id"]
    return started


def test_every_flow_is_deployed_and_listed_over_http(api: Any, deployed: list[str]) -> None:
    assert deployed == NAMES
    listed = api.client.post("/deployments/filter", json={}).json()
    assert sorted(f"{each['name']}/{each['name']}" for each in listed) == sorted(NAMES)
    for each in listed:
        assert each["enforce_parameter_schema"] is True
        assert each["parameter_openapi_schema"]["additionalProperties"] is False
        [step] = each["pull_steps"]
        directory = step["prefect.deployments.steps.set_working_directory"]["directory"]
        assert directory == str(REPOSITORY)


def test_work_pools_are_made_and_a_changed_limit_is_kept(
    api: Any, deploy: Callable[[], list[str]]
) -> None:
    pools = {name: api.client.get(f"/work_pools/{name}").json() for name in ("cpu", "gpu")}
    assert {name: pool["type"] for name, pool in pools.items()} == {
        "cpu": "process",
        "gpu": "process",
    }
    assert (pools["cpu"]["concurrency_limit"], pools["gpu"]["concurrency_limit"]) == (None, 1)
    for limit in (4, None):
        api.client.patch("/work_pools/gpu", json={"concurrency_limit": limit}).raise_for_status()
        deploy()
        assert api.client.get("/work_pools/gpu").json()["concurrency_limit"] == limit
    api.client.patch("/work_pools/gpu", json={"concurrency_limit": 1}).raise_for_status()


def test_deploying_again_changes_nothing_and_keeps_paused_what_somebody_paused(
    api: Any, deploy: Callable[[], list[str]]
) -> None:
    before = {name: api.deployment(name)["id"] for name in NAMES}
    evaluation = api.deployment("evaluate/evaluate")
    [schedule] = evaluation["schedules"]
    path = f"/deployments/{evaluation['id']}/schedules/{schedule['id']}"
    api.client.patch(path, json={"active": False}).raise_for_status()
    [automation] = _automations(api)
    pause = f"/automations/{automation['id']}"
    api.client.patch(pause, json={"enabled": False}).raise_for_status()

    deploy()

    assert {name: api.deployment(name)["id"] for name in NAMES} == before
    [kept] = api.deployment("evaluate/evaluate")["schedules"]
    assert (kept["slug"], kept["active"]) == ("daily", False)
    [weekly] = api.deployment("pipeline/pipeline")["schedules"]
    assert weekly["active"] is True
    [still] = _automations(api)
    assert (still["id"], still["enabled"]) == (automation["id"], False)
    api.client.patch(pause, json={"enabled": True}).raise_for_status()
    resume = f"/deployments/{evaluation['id']}/schedules/{kept['id']}"
    api.client.patch(resume, json={"active": True}).raise_for_status()


def test_the_schedules_really_create_runs(api: Any) -> None:
    """With sqlalchemy 2.1 the server looks healthy and schedules nothing."""
    expected = {"pipeline/pipeline": (0, 3, {}), "evaluate/evaluate": (None, 5, {"name": "demo"})}
    for name, (weekday, hour, parameters) in expected.items():
        deployment = api.deployment(name)
        runs = _scheduled_runs(api, deployment["id"])
        assert len(runs) >= 3
        for run in runs:
            start = datetime.fromisoformat(run["expected_start_time"]).astimezone(UTC)
            assert (start.hour, start.minute) == (hour, 0)
            assert weekday is None or start.weekday() == weekday
            assert parameters.items() <= run["parameters"].items()


def test_the_server_runs_on_libraries_that_it_works_with(api: Any) -> None:
    """Prefect allows newer ones, with which it does not start, deploy or schedule."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pins = {pin.name: pin.specifier for pin in map(Requirement, project["dependencies"])}
    for name in ("prefect", "fastapi", "sqlalchemy"):
        assert version(name) in pins[name]
    assert not pins["fastapi"].contains("0.151")
    assert not pins["sqlalchemy"].contains("2.1.0")
    # From fastapi 0.151 on this is 422, and with it `prefect deploy` and `prefect deployment ls`.
    assert api.client.post("/deployments/filter", json={"limit": None}).status_code == 200


def test_the_ui_talks_to_this_server(api: Any, prefect_server: Any) -> None:
    """Its address is a setting of its own: by default it would ask port 4200."""
    settings = httpx.get(f"{prefect_server.component.address}/ui-settings").json()
    assert settings["api_url"] == prefect_server.api_url


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("pipeline", {"configs": {}}, "('configs' was unexpected)"),
        ("ingest", {"name": "docs", "sources": ["."]}, "('sources' was unexpected)"),
        (
            "pipeline",
            {"config": {"finetune": {"lerning_rate": 0.1}}},
            "field 'config.finetune'. Failure reason: Additional properties are not allowed "
            "('lerning_rate' was unexpected)",
        ),
        (
            "pipeline",
            {"config": {"finetune": {"launch": {"num_processes": 0}}}},
            "finetune.launch.num_proc",
        ),
        ("pipeline", {"config": {"finetune": {"method": "prefix"}}}, "config.finetune.method"),
        ("index", {"name": "Not A Name"}, "field 'name'"),
        ("answer", {}, "'config' is a required property"),
        ("answer", {"config": {}}, "'question' is a required property"),
    ],
)
def test_the_api_refuses_wrong_parameters_and_names_them(
    api: Any, name: str, parameters: dict[str, Any], message: str
) -> None:
    response = api.start(f"{name}/{name}", parameters)
    assert response.status_code == 409
    assert message in response.json()["detail"]


def test_a_repeated_idempotency_key_gives_the_same_run(
    api: Any, runs: dict[str, str], source: Path
) -> None:
    parameters = {"name": "docs", "config": {"sources": [str(source)]}}
    repeated = api.start("ingest/ingest", parameters, idempotency_key="ingest-once")
    assert repeated.status_code == 200
    assert repeated.json()["id"] == runs["ingest"]


def test_a_run_started_by_api_is_followed_to_its_result(
    api: Any, runs: dict[str, str], worker_settings: Settings
) -> None:
    state = api.wait_for_end(runs["ingest"])
    assert state["name"] == "Completed", api.log(runs["ingest"])
    result = StageResult.model_validate_json(api.result(runs["ingest"]))
    assert state["message"].startswith(f"Built {result.ref} in ")
    assert result.counts["num_documents"] == 1
    assert sum(result.dropped.values()) == 1
    # A name that was asked for is not overwritten.
    assert api.client.get(f"/flow_runs/{runs['ingest']}").json()["name"] == "asked by a test"
    # The artifact is there, and so are the library's own log lines.
    corpus = Corpus.load(Workspace.open(settings=worker_settings).artifacts.directory(result.ref))
    assert "Sea otters sleep on their backs." in corpus.chunks[0].text
    api.wait_for_line(runs["ingest"], f"ingest built {result.uri}")


def test_results_are_json_and_never_pickles(
    api: Any, runs: dict[str, str], prefect_server: Any
) -> None:
    api.wait_for_end(runs["ingest"])
    record = api.state(runs["ingest"])["data"]
    assert record["serializer"]["type"] == "json"
    stored = list((prefect_server.home / "prefect" / "storage").iterdir())
    assert Path(record["storage_key"]) in stored
    for path in stored:
        json.loads(path.read_bytes())


def test_a_flow_names_an_unknown_parameter_that_the_api_let_pass(
    api: Any, runs: dict[str, str]
) -> None:
    """Prefect alone says `Process exited with status code: 1`, and Crashed."""
    state = api.wait(runs["unknown"], lambda state: "nme" in (state["message"] or ""))
    assert state["type"] == "FAILED"
    assert state["message"] == (
        "Unknown parameter 'nme'; the flow 'index' takes name, corpus, config, fan_out"
    )
    nested = api.wait_for_end(runs["unknown nested"])
    assert nested["type"] == "FAILED"
    assert "config.metrik: Extra inputs are not permitted" in nested["message"]


def test_a_flow_refuses_parameters_that_contradict_each_other(
    api: Any, runs: dict[str, str]
) -> None:
    state = api.wait_for_end(runs["inconsistent"])
    assert state["type"] == "FAILED"
    assert "global_batch_size (4) must be a multiple of what the ranks take" in state["message"]


def test_the_daily_evaluation_is_skipped_while_there_is_no_model(
    api: Any, runs: dict[str, str]
) -> None:
    state = api.wait_for_end(runs["nothing yet"])
    assert (state["type"], state["name"]) == ("COMPLETED", "Skipped")
    assert state["message"].startswith("Nothing to evaluate yet: there is no model/docs@latest.")


def test_a_second_pipeline_run_is_cancelled_while_the_first_goes_on(api: Any) -> None:
    first, second = api.park("pipeline/pipeline"), api.park("pipeline/pipeline")
    try:
        assert api.set_state(first, "PENDING")["status"] == "ACCEPT"
        answer = api.set_state(second, "PENDING")
        assert (answer["status"], answer["state"]["type"]) == ("REJECT", "CANCELLED")
        assert answer["state"]["message"] == "Deployment concurrency limit reached."
    finally:
        api.set_state(first, "CANCELLED")


def test_a_run_that_falls_silent_is_ended_and_others_are_left_alone(
    api: Any, prefect_server: Any
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.deploy import zombie_automation

    [deployed] = _automations(api)
    assert deployed["trigger"]["within"] == 540
    with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
        quick = zombie_automation(within=timedelta(seconds=10))  # the shortest that Prefect takes
        with get_client(sync_client=True) as client:
            client.update_automation(uuid.UUID(deployed["id"]), quick)
    dead, alive, completed = (api.park("ingest/ingest") for _ in range(3))
    for run_id in (dead, alive, completed):
        api.set_state(run_id, "PENDING")
    # Not one sign of life only: the server takes up a changed automation beside answering, and
    # does not count what it was told before.
    for _ in range(4):
        for run_id in (dead, alive, completed):
            _beat(api, run_id)
        time.sleep(2)
    api.set_state(completed, "COMPLETED")
    _beat(api, completed)  # the last heartbeat may arrive after the end

    deadline = time.monotonic() + 90
    while api.state(dead)["type"] != "CRASHED":
        assert time.monotonic() < deadline
        _beat(api, alive)
        time.sleep(2)
    assert api.state(dead)["message"].startswith("No sign of life")
    time.sleep(3)
    assert api.state(completed)["type"] == "COMPLETED"
    assert api.state(alive)["type"] == "PENDING"
    api.set_state(alive, "CANCELLED")


@pytest.mark.slow
def test_prefects_own_command_deploys_the_same(
    api: Any, prefect_server: Any, deploy: Callable[[], list[str]]
) -> None:
    ours = {name: _comparable(api.deployment(name)) for name in NAMES}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"),
            *("--prefect-file", "deployments/prefect.yaml"),
        ],
        cwd=REPOSITORY,
        env=os.environ
        | {
            "PREFECT_API_URL": prefect_server.api_url,
            "PREFECT_HOME": str(prefect_server.home / "client"),
            "RAFTLINE_PROJECT_ROOT": str(REPOSITORY),
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = {name: _comparable(api.deployment(name)) for name in NAMES}
    deploy()  # with the check for unknown parameters again
    assert theirs == ours


def _comparable(deployment: dict[str, Any]) -> dict[str, Any]:
    fields = (
        "id entrypoint description tags work_pool_name job_variables pull_steps parameters "
        "enforce_parameter_schema concurrency_options"
    )
    chosen = {field: deployment[field] for field in fields.split()}
    chosen["limit"] = (deployment["global_concurrency_limit"] or {}).get("limit")
    chosen["properties"] = sorted(deployment["parameter_openapi_schema"]["properties"])
    chosen["schedules"] = [
        {field: schedule[field] for field in ("slug", "schedule", "active", "parameters")}
        for schedule in deployment["schedules"]
    ]
    return chosen


def _automations(api: Any) -> list[dict[str, Any]]:
    return api.client.post("/automations/filter", json={}).json()


def _beat(api: Any, run_id: str) -> None:
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
    }
    api.client.post("/events", json=[event]).raise_for_status()


def _scheduled_runs(api: Any, deployment_id: str) -> list[dict[str, Any]]:
    """Runs that the scheduler created; its quick loop looks every five seconds."""
    chosen = {"flow_runs": {"deployment_id": {"any_": [deployment_id]}}}
    deadline = time.monotonic() + 90
    while True:
        runs = api.client.post("/flow_runs/filter", json=chosen).json()
        scheduled = [run for run in runs if run["auto_scheduled"]]
        if scheduled or time.monotonic() > deadline:
            return scheduled
        time.sleep(0.5)
