"""`raftline estimate-training`: memory and time of a training, told before it starts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.console import duration, stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipeline_lib.config import FinetuneConfig
    from pipeline_lib.models import ResolvedModel
    from pipeline_lib.stage import Workspace
    from pipeline_lib.training.estimate import Hardware, TrainingEstimate, TrainingRows

_GB = 1_000_000_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "estimate-training",
        epilog="[bold]Example:[/bold] raftline estimate-training --config my.yaml "
        '--gpu "H100" --gpu-memory 80',
    )(estimate_training)


def estimate_training(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Pipeline configuration, YAML or JSON; the part 'finetune' counts.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Pipeline whose dataset is used.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="REF", help="Dataset artifact; the pipeline's latest without it."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Instead of a dataset: so many rows of --tokens each."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Of each row, with --rows.")] = 1024,
    answer_tokens: Annotated[
        int, typer.Option(min=1, help="Of them the answer's, with --rows.")
    ] = 64,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Not this machine, but GPUs such as 'H100' or 'A10'."),
    ] = None,
    gpu_memory: Annotated[
        float, typer.Option(min=1, metavar="GB", help="Of each of them, with --gpu.")
    ] = 80,
    host_memory: Annotated[
        float, typer.Option(min=1, metavar="GB", help="Of a node, with --gpu.")
    ] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print the estimates as JSON.")] = False,
) -> None:
    """Tell how much memory a training will take, whether it fits, and for how long it will run.

    Weights are not loaded. Where a training does not fit, the nearest configuration that does is
    named, and the exit code is 1.
    """
    from deployments.cli.configuration import read_pipeline_config
    from deployments.cli.progress import RichProgress
    from pipeline_lib.models import resolve_model
    from pipeline_lib.settings import load_settings
    from pipeline_lib.stage import Workspace
    from pipeline_lib.training import estimate as library

    chosen = read_pipeline_config(config, name, "estimate-training")
    finetune = chosen.finetune
    progress = RichProgress(stderr_console(), is_transient=True)
    settings = load_settings()
    base = resolve_model(settings, finetune.base_model, progress)
    hardware = library.this_machine() if gpu is None else _named(gpu, gpu_memory, host_memory)

    def rows_of(own: FinetuneConfig) -> TrainingRows:
        if rows is not None:
            return library.TrainingRows.of_length(rows, tokens, min(answer_tokens, tokens - 1))
        reference = dataset or f"dataset/{chosen.name}@latest"
        return _rows_of_dataset(Workspace.open(progress, settings), reference, own, base)

    told = []
    for objective in finetune.stages:
        own = finetune.for_stage(objective)
        found = rows_of(own)
        estimate = library.estimate_training(own, base.path, found, hardware)
        told.append(estimate)
        if not as_json:
            _print(stdout_console(), estimate)
            _print_verdict(stdout_console(), estimate, own, base, found, hardware)
    if as_json:
        typer.echo("[" + ",\n".join(each.model_dump_json(indent=1) for each in told) + "]")
    if not all(each.fits for each in told):
        raise typer.Exit(1)


def _named(gpu: str, memory_gb: float, host_gb: float) -> Hardware:
    from pipeline_lib.training.estimate import Hardware

    return Hardware(
        device="cuda",
        name=gpu,
        device_bytes=round(memory_gb * _GB),
        host_bytes=round(host_gb * _GB),
        precision="bf16",
    )


def _rows_of_dataset(
    ws: Workspace, reference: str, config: FinetuneConfig, base: ResolvedModel
) -> TrainingRows:
    """The training rows of a dataset, tokenized as the training will."""
    from pipeline_lib.training.estimate import TrainingRows
    from pipeline_lib.training.objectives import objective_named
    from pipeline_lib.training.objectives.base import PrepareJob

    ref = ws.artifacts.resolve(reference)
    with tempfile.TemporaryDirectory(prefix="estimate-", dir=ws.settings.scratch) as folder:
        prepared = objective_named(config.stages[0]).prepare(
            PrepareJob(
                config=config,
                dataset=ws.artifacts.directory(ref),
                base=base,
                run_folder=Path(folder),
                num_ranks=config.batch_arithmetic.num_ranks,
                progress=ws.progress,
            )
        )
        return TrainingRows.of_file(prepared.files["train"], config)


def _print(out: Console, told: TrainingEstimate) -> None:
    out.print(
        f"[bold]{told.objective}[/bold] by {told.method} in {told.precision} on {told.hardware}: "
        f"{told.num_trainable_parameters:,} of {told.num_parameters:,} parameters learn",
        soft_wrap=True,
    )
    out.print(
        f"{told.batch}; {told.num_steps:,} steps over {told.num_rows:,} rows, learning rate "
        f"{told.learning_rate:g}",
        soft_wrap=True,
    )
    largest = told.largest_micro_batch
    out.print(
        f"Gradient checkpointing is {'on' if told.gradient_checkpointing else 'off'}. The largest "
        f"micro batch has {largest.num_tokens:,} tokens, {largest.num_loss_tokens:,} of them "
        "learned.",
        soft_wrap=True,
    )
    out.print()
    out.print(_memory(told))
    out.print()
    out.print(_time(told), soft_wrap=True)
    for note in told.notes:
        out.print(f"[yellow]{note}[/yellow]", soft_wrap=True)


def _memory(told: TrainingEstimate) -> Table:
    from rich.table import Table

    from pipeline_lib.training.estimate.report import in_gb

    uses = {"each GPU": told.device_memory, "node": told.host_memory}
    if told.device == "cpu":
        uses = {"all ranks": told.host_memory}
    table = Table("memory", box=None, padding=(0, 2))
    for title in uses:
        table.add_column(title, justify="right")
    for part in dict.fromkeys(name for use in uses.values() for name in use.parts):
        sizes = [use.parts.get(part, 0) for use in uses.values()]
        if any(sizes):
            table.add_row(part, *(in_gb(size) if size else "" for size in sizes))
    table.add_row("[bold]together[/bold]", *(in_gb(use.num_bytes) for use in uses.values()))
    table.add_row("free", *(in_gb(use.available) for use in uses.values()))
    return table


def _time(told: TrainingEstimate) -> str:
    if told.seconds is None or told.tokens_per_second is None:
        return "time: unknown"
    value, low, high = (
        duration(each) for each in (told.seconds.value, told.seconds.low, told.seconds.high)
    )
    return (
        f"time of the steps: about {value} ({low} to {high}), "
        f"{told.tokens_per_second.value:,.0f} tokens per second"
    )


def _print_verdict(
    out: Console,
    told: TrainingEstimate,
    config: FinetuneConfig,
    base: ResolvedModel,
    rows: TrainingRows,
    hardware: Hardware,
) -> None:
    from pipeline_lib.training.estimate import nearest_that_fits

    if told.fits:
        out.print("[green]It fits.[/green]\n")
        return
    remedy = nearest_that_fits(config, base.path, rows, hardware)
    advice = f"Set under finetune: {remedy}" if remedy else "No setting makes it fit."
    out.print(f"[red]It does not fit.[/red] {advice}\n", soft_wrap=True)
