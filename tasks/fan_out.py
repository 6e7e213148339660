"""Where the tasks of a fan-out run: threads, a Dask cluster, a Ray cluster.

Which library serves a runner is an extra, imported only when it is asked for. Settings do not
travel with the tasks: workers read `RAFTLINE_…` from their own environment, as every process does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from pipeline_lib.config import FanOutConfig
from pipeline_lib.errors import ConfigError


def task_runner(config: FanOutConfig) -> TaskRunner[Any]:
    """The runner of Prefect's that a configuration names.

    Raises:
        ConfigError: its library is not installed, or there is nothing to fan out to.
    """
    if config.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=config.num_workers)
    if config.runner == "dask":
        return _dask(config)
    if config.runner == "ray":
        return _ray(config)
    raise ConfigError(
        "fan_out.runner is 'none': there is no task runner",
        hint="Choose 'threads', 'dask' or 'ray'.",
    )


def _dask(config: FanOutConfig) -> TaskRunner[Any]:
    runner = _import("prefect_dask", "dask").DaskTaskRunner
    if config.address:
        made: TaskRunner[Any] = runner(address=config.address)
    else:
        # One thread each: a parser process per shard is what uses the cores. The dashboard would
        # be open to everybody on this machine.
        made = runner(
            cluster_kwargs={
                "n_workers": config.num_workers,
                "threads_per_worker": 1,
                "processes": True,
                "dashboard_address": None,
            }
        )
    return made


def _ray(config: FanOutConfig) -> TaskRunner[Any]:
    runner = _import("prefect_ray", "ray").RayTaskRunner
    if config.address:
        made: TaskRunner[Any] = runner(address=config.address)
    else:
        made = runner(init_kwargs={"num_cpus": config.num_workers, "include_dashboard": False})
    return made


def _import(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"fan_out.runner is {extra!r}, but {error.name} is not installed",
            hint=f"Install it with: pip install 'raftline[{extra}]'",
        ) from error
