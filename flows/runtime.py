"""What every flow shares: its name in the UI, its final message, its answer to wrong parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar, cast

from prefect import Flow, flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Failed
from pydantic import BaseModel, Field

from pipeline_lib.config import NAME_PATTERN
from tasks.error_log import show_errors_for_users
from tasks.presentation import show
from tasks.progress import use_progress
from tasks.remote import publish_result

__all__ = ["Name", "Reference", "completed", "raftline_flow", "skipped", "use_progress"]

P = ParamSpec("P")
R = TypeVar("R")
Result = TypeVar("Result", bound=BaseModel)
SKIPPED = "Skipped"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A pipeline's name, as a flow parameter."""
Reference = Annotated[str, Field(min_length=1)]
"""An artifact, as a flow parameter; see `tasks.references.full_reference`."""

_INVENTED_NAME = re.compile(
    r"[A-Za-z]+-[A-Za-z]+"
    r"|(alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho"
    r"|sigma|tau|upsilon|phi|chi|psi|omega)\d+-[a-z-]+"
)


def run_name() -> str:
    """`ingest demo` instead of a name that Prefect invented; others are kept.

    The API names a run by two words joined by a dash (`fuzzy-otter`), the UI's form by a Greek
    letter with a number and a place or a scientist (`xi146-hawking-r`), so a name of such a shape
    is taken for an invented one. Without this check Prefect would overwrite every name that a
    caller asked for.
    """
    given: str = runtime.flow_run.name or ""
    if given and not _INVENTED_NAME.fullmatch(given):
        return given
    parameters: dict[str, Any] = runtime.flow_run.parameters or {}
    config = parameters.get("config")
    name = parameters.get("name") or getattr(config, "name", "")
    return f"{runtime.flow_run.flow_name} {name}".strip()


def explain_unknown_parameters(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Give a run that crashed over an unknown parameter a final state that says so.

    Prefect finds unknown top-level parameters before the flow begins and reports no more than
    `Process exited with status code: 1`. Deployments made by `deployments.deploy` have the API
    refuse such runs; this is for those made by `prefect deploy`, and for calls that switch the
    API's check off. Prefect passes the arguments by keyword: their names are fixed.
    """
    known = list(flow.parameters.properties)
    unknown = sorted(flow_run.parameters.keys() - set(known))
    if not unknown:
        return
    message = (
        f"Unknown parameter{'s' if len(unknown) > 1 else ''} "
        f"{', '.join(map(repr, unknown))}; the flow {flow.name!r} takes {', '.join(known)}"
    )
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Failed(name=state.name, message=message), force=True)


def raftline_flow(*, name: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """`@flow` with JSON results, readable run names, and messages for people."""
    show_errors_for_users()
    return flow(
        name=name,
        flow_run_name=run_name,
        persist_result=True,
        result_serializer="json",
        on_crashed=[explain_unknown_parameters],
    )


def completed(result: Result, message: str, *, summary_key: str, summary_markdown: str) -> Result:
    """End a flow: its result for programs, a Markdown summary and one line for people.

    Args:
        result: what the flow returns.
        message: the run's final message, shown beside its state.
        summary_key: artifact key of the summary: lower-case letters, digits, dashes.
        summary_markdown: the summary.

    Returns:
        What the flow has to return: a state, in place of which Prefect gives callers the result.
    """
    show(create_markdown_artifact, key=summary_key, markdown=summary_markdown, description=message)
    publish_result(result)
    return cast(Result, Completed(message=message, data=result))


def skipped(message: str) -> Any:
    """End a flow that had nothing to do, and no reason to worry anybody; it returns `None`."""
    return Completed(name=SKIPPED, message=message, data=None)
