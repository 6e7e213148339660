"""`prefect.yaml` without a server: everything in it exists and fits together."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.server.schemas.schedules import CronSchedule
from prefect.utilities.schema_tools.validation import ValidationError, validate

import flows
from deployments.deploy import PREFECT_FILE, WORK_POOLS, DeploymentSpec, PrefectFile
from flows.runtime import explain_unknown_parameters
from pipeline_lib.config import AnswerConfig

FILE = PrefectFile.load()
SPECS = {spec.name: spec for spec in FILE.deployments}
SCHEDULES = [(spec, schedule) for spec in FILE.deployments for schedule in spec.schedules]
IDS = [f"{spec.name}-{schedule.slug}" for spec, schedule in SCHEDULES]
FLOWS = {
    path.stem
    for path in Path(inspect.getfile(flows)).parent.glob("*.py")
    if f'@raftline_flow(name="{path.stem}")' in path.read_text()
}


def test_every_flow_is_deployed_once_under_its_own_name() -> None:
    names = [spec.name for spec in FILE.deployments]
    assert sorted(names) == sorted(FLOWS)
    assert {spec.load_flow().name for spec in FILE.deployments} == set(names)
    assert {"ingest", "index", "synthesize", "finetune", "evaluate", "promote", "pipeline"} < FLOWS


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_deployment_has_a_pool_a_description_and_a_flow_with_json_results(
    spec: DeploymentSpec,
) -> None:
    flow = spec.load_flow()
    assert isinstance(flow, Flow)
    assert spec.entrypoint == f"flows.{spec.name}.{spec.name}"
    assert spec.work_pool.name in WORK_POOLS
    assert len(spec.description) > 20
    assert flow.persist_result is True
    assert flow.result_serializer == "json"
    assert flow.on_crashed_hooks == [explain_unknown_parameters]


def test_a_worker_finds_the_package_evaluate_not_the_flow_of_that_name(tmp_path: Path) -> None:
    script = """
import sys
from prefect.flows import load_flow_from_entrypoint
for entrypoint in sys.argv[1:]:
    load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
import evaluate
print(evaluate.Metric.__module__)
"""
    entrypoints = [spec.entrypoint for spec in FILE.deployments]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *entrypoints],
        cwd=Path(flows.__file__).parents[1],  # where the pull step leads
        env={**os.environ, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "evaluate.module", done.stderr


def test_training_runs_in_the_gpu_pool_and_nothing_else_does() -> None:
    assert [spec.name for spec in SPECS.values() if spec.work_pool.name == "gpu"] == ["finetune"]


def test_the_pipeline_is_scheduled_weekly_and_the_evaluation_daily() -> None:
    assert {spec.name: schedule.slug for spec, schedule in SCHEDULES} == {
        "pipeline": "weekly",
        "evaluate": "daily",
    }
    days = {"weekly": 7, "daily": 1}
    for _, schedule in SCHEDULES:
        cron = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
        first, second = asyncio.run(cron.get_dates(n=2))
        assert second - first == timedelta(days=days[schedule.slug])
        assert schedule.active


@pytest.mark.parametrize(("spec", "_schedule"), SCHEDULES, ids=IDS)
def test_a_scheduled_runs_parameters_fit_its_flow(spec: DeploymentSpec, _schedule: Any) -> None:
    validate(spec.parameters, spec.parameter_schema(), raise_on_error=True)
    spec.load_flow().validate_parameters(spec.parameters)


def test_no_schedule_has_parameters_of_its_own() -> None:
    """Pausing or resuming a schedule would erase them without a word."""
    for deployment in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]:
        for schedule in deployment.get("schedules", []):
            assert "parameters" not in schedule


@pytest.mark.parametrize(("spec", "_schedule"), SCHEDULES, ids=IDS)
def test_late_runs_do_not_pile_up(spec: DeploymentSpec, _schedule: Any) -> None:
    """Prefect starts every missed run when a worker comes back, oldest first."""
    assert spec.concurrency_limit is not None
    assert spec.concurrency_limit.limit == 1
    assert spec.concurrency_limit.collision_strategy == "CANCEL_NEW"


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_unknown_parameter_does_not_fit_any_schema(spec: DeploymentSpec) -> None:
    parameters: dict[str, Any] = (
        {"config": {"question": "What?"}} if spec.name == "answer" else spec.parameters
    )
    validate(parameters, spec.parameter_schema(), raise_on_error=True)
    with pytest.raises(ValidationError, match="'nme' was unexpected"):
        validate({**parameters, "nme": 1}, spec.parameter_schema(), raise_on_error=True)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_the_run_form_submits_unchanged_is_accepted(spec: DeploymentSpec) -> None:
    schema = spec.parameter_schema()
    filled_in = {
        name: field["default"] for name, field in schema["properties"].items() if "default" in field
    }
    if spec.name == "answer":
        filled_in["config"] = AnswerConfig(question="What?").model_dump(mode="json")
    assert filled_in.keys() == schema["properties"].keys()
    validate(filled_in, schema, raise_on_error=True)
    spec.load_flow().validate_parameters(filled_in)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_field_of_the_run_form_has_a_label_and_a_help_text(spec: DeploymentSpec) -> None:
    schema = spec.parameter_schema()
    assert list(_unexplained(schema, schema["definitions"], "")) == []


def test_a_parameter_has_no_secret() -> None:
    """Prefect would show `**********` as its default, and submit it."""
    for spec in SPECS.values():
        schema = str(spec.parameter_schema())
        assert "'format': 'password'" not in schema, spec.name
        assert not re.search(r"'\w*(password|api_key|secret_access_key)\w*':", schema), spec.name


def test_the_project_root_is_left_to_the_environment() -> None:
    [step] = FILE.pull
    assert step["prefect.deployments.steps.set_working_directory"] == {
        "directory": "{{ $RAFTLINE_PROJECT_ROOT }}"
    }


def test_the_file_holds_nothing_that_only_one_machine_has() -> None:
    text = PREFECT_FILE.read_text()
    assert yaml.safe_load(text)["name"] == "raftline"
    assert not re.search(r"(?<![\w.:/])/(home|root|opt|work|usr|tmp)/", text)


def _unexplained(schema: dict[str, Any], definitions: dict[str, Any], path: str) -> Any:
    """Paths of properties that lack a title or a description, also those of nested models."""
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        reference = field.get("$ref") or field.get("allOf", [{}])[0].get("$ref")
        nested = definitions[reference.rpartition("/")[2]] if reference else {}
        if not (field.get("title") or nested.get("title")):
            yield f"{here}: no title"
        if not (field.get("description") or nested.get("description")):
            yield f"{here}: no description"
        yield from _unexplained(nested, definitions, here)
