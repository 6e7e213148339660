"""`raftline up`, `down`, `status`: the local stack."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.console import duration, stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.table import Table

    from deployments.stack.local import ComponentStatus, LocalStack

PANEL = "Local stack"
_STYLES = {"healthy": "green", "not answering": "yellow", "dead": "red", "stopped": "dim"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        rich_help_panel=PANEL,
        epilog="[bold]Example:[/bold] raftline up && raftline status",
    )(up)
    app.command(rich_help_panel=PANEL, epilog="[bold]Example:[/bold] raftline down")(down)
    app.command(
        rich_help_panel=PANEL,
        epilog="[bold]Example:[/bold] raftline status --json | jq '.[].state'",
    )(status)


def up() -> None:
    """Start Prefect, S3 and the workers on loopback, and wait until they work.

    Can be repeated: what works stays as it is, what has died starts again.
    """
    started = datetime.now(UTC)
    stack = start_stack()
    out = stdout_console()
    out.print(_table(stack.status()))
    out.print(f"The stack is up after {duration((datetime.now(UTC) - started).total_seconds())}.")
    out.print(f"Prefect UI: [link={stack.ui_url}]{stack.ui_url}[/link]")
    file = shlex.quote(str(stack.environment_file))
    out.print(f"For your shell: set -a; . {file}; set +a", soft_wrap=True)
    out.print(
        "Next: [bold]raftline demo[/bold], or start a run: "
        "[bold]prefect deployment run pipeline/pipeline[/bold]"
    )


def down() -> None:
    """End what `up` started, running flows included. The data stays.

    Only processes of this stack are ended, even when others use its ports or process ids.
    """
    from deployments.cli.progress import RichProgress
    from deployments.stack.local import LocalStack
    from pipeline_lib.settings import home_from_environment

    stack = LocalStack(home_from_environment(), progress=RichProgress(stderr_console()))
    stopped = stack.down()
    if stopped.num_flow_runs:
        stdout_console().print(
            f"[yellow]Flow runs that were under way and have been cancelled: "
            f"{stopped.num_flow_runs}. Run them again: what is finished is reused.[/yellow]"
        )
    stdout_console().print(
        "The stack is down." if stopped.num_processes else "The stack was not up."
    )


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show every component: state, address, process, log.

    The exit code is 0 only when all of them are healthy.
    """
    from deployments.stack.local import LocalStack
    from pipeline_lib.settings import home_from_environment

    components = LocalStack(home_from_environment()).status()
    if as_json:
        import dataclasses
        import json

        rows = [dataclasses.asdict(component) for component in components]
        typer.echo(json.dumps(rows, indent=1, default=str))
    else:
        stdout_console().print(_table(components))
    if any(component.state != "healthy" for component in components):
        raise typer.Exit(1)


def start_stack() -> LocalStack:
    """Bring the stack up with a progress line; warn about exported variables that bypass it.

    Raises:
        StackError: a component could not be started.
    """
    from deployments.cli.progress import RichProgress
    from deployments.stack.local import LocalStack
    from deployments.stack.state import read_environment
    from pipeline_lib.settings import home_from_environment

    console = stderr_console()
    stack = LocalStack(home_from_environment(), progress=RichProgress(console))
    stack.up()
    for name, value in read_environment(stack.home).items():
        if name.startswith("RAFTLINE_") and os.environ.get(name, value) != value:
            console.print(
                f"[yellow]note:[/yellow] {name} is exported and wins over the local stack's."
            )
    return stack


def _table(components: list[ComponentStatus]) -> Table:
    from rich.table import Table

    table = Table("component", "state", "address", "pid", "up for", "log", box=None)
    for each in components:
        age = (datetime.now(UTC) - each.since).total_seconds() if each.since else None
        table.add_row(
            each.name,
            f"[{_STYLES[each.state]}]{each.state}[/]",
            each.address or "-",
            str(each.pid or "-"),
            "-" if age is None else duration(age),
            _shortened(str(each.log)),
        )
    return table


def _shortened(path: str) -> str:
    """Relative to the current folder where it lies below it."""
    prefix = os.getcwd() + os.sep  # noqa: PTH109 - compared as text, not resolved
    return path.removeprefix(prefix)
