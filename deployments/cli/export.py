"""`raftline export`: a dataset as files for other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.console import stdout_console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="[bold]Example:[/bold] raftline export dataset/demo@latest --format chat --to chat/",
    )(export)


def export(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="Dataset artifact: dataset/name@alias, or dataset/name/ and a fingerprint or its "
            "first digits.",
        ),
    ],
    to: Annotated[
        Path,
        typer.Option("--to", metavar="FOLDER", help="Where to write; must be new or empty."),
    ],
    export_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="chat (messages), prompt_completion, preference (pairs) or text (documents).",
        ),
    ] = "chat",
) -> None:
    """Write a dataset as JSONL that TRL, axolotl and LLaMA-Factory load as it is.

    A README.md beside the files says how.
    """
    from pipeline_lib.artifacts.store import ArtifactStore
    from pipeline_lib.errors import ConfigError
    from pipeline_lib.raft.export import export_dataset
    from pipeline_lib.settings import load_settings

    store = ArtifactStore(load_settings())
    ref = store.resolve(reference)
    if ref.kind != "dataset":
        raise ConfigError(f"{ref} is no dataset", hint="raftline show lists all artifacts.")
    exported = export_dataset(store.directory(ref), to, export_format, name=ref.name)
    console = stdout_console()
    for file, num_lines in exported.num_lines.items():
        console.print(f"{exported.folder / file}: {num_lines:,} lines")
