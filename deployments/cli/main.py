"""The `raftline` command.

Only what every command needs is imported here: the library, torch and Prefect are imported by the
commands that use them, so that `raftline --help` answers at once.
"""

from __future__ import annotations

import os
import warnings
from typing import Annotated

import typer

from deployments.cli import (
    ask,
    demo,
    estimate,
    estimate_training,
    evaluate_retrieval,
    export,
    join,
    manifest,
    models,
    review,
    search,
    show,
    stack,
)
from deployments.cli.group import RaftlineGroup, configure_logging

app = typer.Typer(
    name="raftline",
    cls=RaftlineGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="[bold]Example:[/bold] raftline demo, and then: "
    'raftline ask "What does the with statement do?"',
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"raftline {version('raftline')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the detailed log.")
    ] = False,
) -> None:
    """From a body of documents to a language model that quotes its evidence word for word.

    Everything local lies in [bold].raftline[/bold], or where RAFTLINE_HOME says.
    """
    configure_logging(debug)


demo.register(app)
ask.register(app)
search.register(app)
estimate.register(app)
estimate_training.register(app)
evaluate_retrieval.register(app)
show.register(app)
export.register(app)
review.register(app)
stack.register(app)
models.register(app)
join.register(app)
manifest.register(app)


def main() -> None:
    """Entry point of the installed command."""
    # The command has its own progress; libraries' bars would run through it.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # What a library will do differently one day is for its developers.
    warnings.simplefilter("ignore", FutureWarning)
    app(prog_name="raftline")
