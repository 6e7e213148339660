"""Brings a Prefect server to what `deployments/prefect.yaml` says, in one pass and repeatably.

The same file works with `prefect deploy --all`. This does a little more, and starts no command
line: it creates the work pools, lets the API refuse unknown parameters, keeps a schedule paused
that somebody paused, and sets up the automation that ends runs whose process has died.

    python -m deployments.deploy [PROJECT_ROOT]
"""

from __future__ import annotations

import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import ConcurrencyOptions, StateType
from prefect.client.schemas.schedules import construct_schedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.errors import ConfigError

PREFECT_FILE = Path(__file__).parent / "prefect.yaml"
_ROOT_PLACEHOLDER = "{{ $RAFTLINE_PROJECT_ROOT }}"

WORK_POOLS: dict[str, int | None] = {"cpu": None, "gpu": 1}
"""Pool to how many runs it takes at once (`None`: any number). Only set when a pool is created."""

ZOMBIE_AUTOMATION = "raftline: end runs whose process has died"
_MISSED_HEARTBEATS = 3


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkPoolSpec(_Spec):
    """Where a deployment's runs are executed."""

    name: str
    job_variables: dict[str, Any] = Field(default_factory=dict)


class ConcurrencySpec(_Spec):
    """How many runs of a deployment at once, and what becomes of the next."""

    limit: int
    collision_strategy: str
    grace_period_seconds: int | None = None


class ScheduleSpec(_Spec):
    """When a deployment runs by itself."""

    slug: str
    cron: str
    timezone: str
    active: bool = True


class DeploymentSpec(_Spec):
    """One entry of `prefect.yaml`: the part of Prefect's format that we use."""

    name: str
    entrypoint: str
    description: str
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = Field(default_factory=dict)
    work_pool: WorkPoolSpec
    concurrency_limit: ConcurrencySpec | None = None
    schedules: tuple[ScheduleSpec, ...] = ()

    def load_flow(self) -> Flow[..., Any]:
        """Import the flow."""
        module, _, attribute = self.entrypoint.rpartition(".")
        flow: Flow[..., Any] = getattr(import_module(module), attribute)
        return flow

    def parameter_schema(self) -> dict[str, Any]:
        """The flow's parameters as JSON Schema, unknown names refused, labels capitalised.

        Without the refusal the API accepts a run with a misspelt parameter (201), and the run
        then crashes before the flow can say why.
        """
        schema = self.load_flow().parameters.model_dump_for_openapi()
        for name, parameter in schema["properties"].items():
            parameter["title"] = name.capitalize()
        return schema | {"additionalProperties": False}


class PrefectFile(_Spec):
    """The content of `prefect.yaml`."""

    name: str
    pull: list[dict[str, Any]]
    definitions: dict[str, Any] = Field(default_factory=dict)
    deployments: tuple[DeploymentSpec, ...]

    @classmethod
    def load(cls, path: Path = PREFECT_FILE) -> PrefectFile:
        """Read the file; `{{ $VARIABLE }}` stays as it is."""
        return cls.model_validate(yaml.safe_load(path.read_text()))


def deploy_all(project_root: Path) -> list[str]:
    """Deploy every flow to the server at `PREFECT_API_URL`; safe to repeat.

    Args:
        project_root: the repository's folder as the workers see it.

    Returns:
        Names of the deployments, `flow/deployment`.

    Raises:
        ConfigError: no server is configured.
    """
    if not get_current_settings().api.url:
        raise ConfigError(
            "PREFECT_API_URL is not set: there is no server to deploy to",
            hint="'raftline up' starts one and deploys to it.",
        )
    file = PrefectFile.load()
    pull_steps = _fill_in(file.pull, project_root)
    with get_client(sync_client=True) as client:
        for pool, limit in WORK_POOLS.items():
            _ensure_work_pool(client, pool, limit)
        names = [_deploy(client, spec, pull_steps) for spec in file.deployments]
        _ensure_automation(client, zombie_automation())
    return names


def zombie_automation(within: timedelta | None = None) -> AutomationCore:
    """Marks a run as Crashed that sent heartbeats and then fell silent without ending.

    Prefect has no such rule of its own: a run whose machine died would stay Running for ever, and
    hold its slot of a concurrency limit.

    Args:
        within: the silence that counts; by default three heartbeats of the configured frequency.
    """
    if within is None:
        frequency = get_current_settings().flows.heartbeat_frequency or 180
        within = timedelta(seconds=_MISSED_HEARTBEATS * frequency)
    minutes = within.total_seconds() / 60
    return AutomationCore(
        name=ZOMBIE_AUTOMATION,
        description="Created by raftline. Pause it here to switch it off.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No sign of life for {minutes:.0f} minutes: its process has died. "
                "Run it again: finished stages are reused, a training resumes.",
            )
        ],
    )


def _fill_in(value: Any, project_root: Path) -> Any:
    if isinstance(value, dict):
        return {key: _fill_in(item, project_root) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_in(item, project_root) for item in value]
    if isinstance(value, str):
        return value.replace(_ROOT_PLACEHOLDER, str(project_root))
    return value


def _ensure_work_pool(client: SyncPrefectClient, name: str, limit: int | None) -> None:
    """Create the pool, or take over one that a worker created when it started before us."""
    ours = f"Raftline: {name} work"
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=name, type="process", concurrency_limit=limit, description=ours)
        )
        return
    if pool.description is None and pool.concurrency_limit is None:
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit, description=ours))


def _deploy(
    client: SyncPrefectClient, spec: DeploymentSpec, pull_steps: list[dict[str, Any]]
) -> str:
    flow = spec.load_flow()
    full_name = f"{flow.name}/{spec.name}"
    limit = spec.concurrency_limit
    client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=spec.name,
        entrypoint=spec.entrypoint,
        description=spec.description,
        tags=list(spec.tags),
        parameters=spec.parameters,
        work_pool_name=spec.work_pool.name,
        job_variables=spec.work_pool.job_variables,
        pull_steps=pull_steps,
        parameter_openapi_schema=spec.parameter_schema(),
        enforce_parameter_schema=True,
        schedules=_schedules(spec, _paused_slugs(client, full_name)),
        concurrency_limit=limit.limit if limit else None,
        concurrency_options=_concurrency_options(limit) if limit else None,
    )
    return full_name


def _schedules(spec: DeploymentSpec, paused: set[str]) -> list[DeploymentScheduleCreate]:
    return [
        DeploymentScheduleCreate(
            schedule=construct_schedule(cron=schedule.cron, timezone=schedule.timezone),
            active=schedule.active and schedule.slug not in paused,
            slug=schedule.slug,
        )
        for schedule in spec.schedules
    ]


def _concurrency_options(limit: ConcurrencySpec) -> ConcurrencyOptions:
    fields = limit.model_dump(exclude={"limit"}, exclude_none=True)
    return ConcurrencyOptions.model_validate(fields)


def _paused_slugs(client: SyncPrefectClient, full_name: str) -> set[str]:
    """Schedules that somebody paused on the server."""
    try:
        deployment = client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        return set()
    return {s.slug for s in deployment.schedules if s.slug and not s.active}


def _ensure_automation(client: SyncPrefectClient, automation: AutomationCore) -> UUID:
    """Create an automation, or bring the one of that name up to date; keeps it paused if it is."""
    existing = client.read_automations_by_name(automation.name)
    if not existing:
        return client.create_automation(automation)
    kept = automation.model_copy(update={"enabled": existing[0].enabled})
    client.update_automation(existing[0].id, kept)
    return existing[0].id


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    for deployed in deploy_all(root):
        print(deployed)  # noqa: T201
