"""`raftline join`: this machine takes part in a training of several."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="[bold]Example:[/bold] raftline join model/docs/0f3a… --node-rank 1",
    )(join)


def join(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="REF",
            help="The model that is being made: model/name/fingerprint, as node 0 logs it.",
        ),
    ] = None,
    node_rank: Annotated[
        int | None,
        typer.Option(
            envvar=["PET_NODE_RANK", "JOB_COMPLETION_INDEX"],
            min=0,
            help="Number of this machine. Rendezvous 'c10d' needs none.",
        ),
    ] = None,
    local_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="By which the others reach this machine; found out without it."
        ),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(
            envvar="RAFTLINE_TRAINING",
            metavar="JSON",
            help="Instead of REF, the same for all machines, node 0 included: what to train, as "
            "'raftline manifest' writes it.",
        ),
    ] = None,
    wait: Annotated[
        int, typer.Option(min=1, metavar="SECONDS", help="For the training to begin.")
    ] = 3600,
) -> None:
    """Run this machine's share of a training of several machines; ends when that does.

    Node 0 is the machine that owns the training: the worker that runs the flow finetune with
    launch.num_nodes above 1. This command waits for it, fetches the plan and the data from the
    object store and the base model from where node 0 has it, and starts the ranks of this machine.
    """
    from pydantic import ValidationError

    from deployments.cli.console import stderr_console, stdout_console
    from deployments.cli.progress import RichProgress
    from pipeline_lib.artifacts.manifest import ArtifactRef
    from pipeline_lib.errors import ConfigError
    from pipeline_lib.stage import Workspace
    from pipeline_lib.training.joining import TrainingOrder, join_training, take_part
    from pipeline_lib.training.nodes import Node

    if (reference is None) == (training is None):
        raise ConfigError(
            "Give either the model to take part in or the whole training, and not both",
            hint="raftline join model/<name>/<fingerprint>, as the log of node 0 says.",
        )
    _log_progress()
    ws = Workspace.open(RichProgress(stderr_console(), is_transient=True))
    if reference is not None:
        ref = ArtifactRef.parse(reference)
        node = Node(rank=1 if node_rank is None else node_rank, local_address=local_address)
        join_training(ws, ref, node, wait)
        stdout_console().print(f"{ref}: the training is over")
        return
    try:
        order = TrainingOrder.model_validate_json(training or "")
    except ValidationError as error:
        raise ConfigError(f"RAFTLINE_TRAINING is not a training: {error}") from error
    if node_rank is None:
        raise ConfigError(
            "Which machine of the training this is, is not known",
            hint="Give --node-rank; in a pod of an Indexed Job, JOB_COMPLETION_INDEX says it.",
        )
    take_part(ws, order, Node(rank=node_rank, local_address=local_address), wait)


def _log_progress() -> None:
    """Nobody watches these machines: what goes on belongs into their logs."""
    import logging

    for name in ("pipeline_lib", "deployments"):
        logger = logging.getLogger(name)
        logger.setLevel(min(logger.level, logging.INFO))
        for handler in logger.handlers:
            handler.setLevel(min(handler.level, logging.INFO))
