"""What every stage's task shares: its retries, its workspace, its place in the UI."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

from prefect import Task, get_run_logger, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff

from pipeline_lib.artifacts.store import ArtifactStore
from pipeline_lib.errors import RaftlineError
from pipeline_lib.progress import NullProgress
from pipeline_lib.settings import Settings, load_settings
from pipeline_lib.stage import StageResult, Workspace
from tasks.presentation import readable
from tasks.progress import Fanout, PrefectProgress, RunLogger, current_listener, use_progress

__all__ = [
    "log_counts",
    "open_workspace",
    "retry_if_transient",
    "shard_workspace",
    "stage_task",
    "use_progress",
]

P = ParamSpec("P")
R = TypeVar("R")


def retry_if_transient(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: only the errors that say so themselves."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, RaftlineError) and error.is_transient


def stage_task(
    *, name: str, description: str, tags: Iterable[str] = ()
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """`@task` for a stage: tries again after about 2, 4 and 8 s, and only where that can help."""
    return task(
        name=name,
        description=description,
        tags=tags,
        retries=3,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=retry_if_transient,
        # Artifacts in S3 are what is reused: Prefect need not keep results, and never as pickles.
        persist_result=False,
        result_serializer="json",
    )


@lru_cache(maxsize=1)
def _artifact_store(settings: Settings) -> ArtifactStore:
    """One per process: an S3 client takes a good part of a second to make."""
    return Workspace.open(settings=settings).artifacts


class _RunLog(logging.Handler):
    """Passes the library's log lines on to the log of a run, from whichever thread they come."""

    def __init__(self, run_logger: RunLogger) -> None:
        super().__init__()
        self._run_logger = run_logger

    def emit(self, record: logging.LogRecord) -> None:
        self._run_logger.log(
            record.levelno, "%s", record.getMessage(), exc_info=record.exc_info or None
        )


@contextmanager
def _library_log_in(run_logger: RunLogger) -> Iterator[None]:
    library = logging.getLogger("pipeline_lib")
    before = library.level, library.propagate
    handler = _RunLog(run_logger)
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    # The run's logger writes to the console too: without this every line would stand there twice.
    library.propagate = False
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(before[0])
        library.propagate = before[1]


@contextmanager
def open_workspace() -> Iterator[Workspace]:
    """The stage's live services; progress goes to the UI and to whoever called `use_progress`.

    Inside the block the library's log is the run's log. Outside a task run (a task's `fn` called by
    a test) there is neither UI nor run.
    """
    settings = load_settings()
    store = _artifact_store(settings)
    listener = current_listener()
    context = TaskRunContext.get()
    if context is None:
        yield Workspace(settings, store, listener or NullProgress())
        return
    run, logger = context.task_run, get_run_logger()
    with (
        _library_log_in(logger),
        PrefectProgress.for_task_run(run.id, run.flow_run_id, logger) as shown,
    ):
        progress = Fanout(shown, listener) if listener else shown
        yield Workspace(settings, store, progress)


@contextmanager
def shard_workspace() -> Iterator[Workspace]:
    """The live services of one task of many, on a worker of a fan-out.

    It has no progress of its own (hundreds of bars say less than the number of finished tasks) and
    leaves the process's logging alone, which tasks in other threads share.
    """
    settings = load_settings()
    yield Workspace(settings, _artifact_store(settings), NullProgress())


def log_counts(result: StageResult) -> None:
    """Write into the run's log what a stage made and dropped; does nothing without a run."""
    if TaskRunContext.get() is None:
        return
    for title, numbers in (("Counts", result.counts), ("Dropped", result.dropped)):
        if numbers:
            listed = [f"{readable(name)} {number:,}" for name, number in numbers.items()]
            get_run_logger().info("%s: %s", title, ", ".join(listed))
