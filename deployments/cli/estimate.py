"""`raftline estimate`: what a dataset will take, told from a sample before it is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.console import duration, stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipeline_lib.raft.estimate import SampleRecord, SynthesisEstimate
    from pipeline_lib.raft.extrapolation import Quantity

_HOUR_SECONDS = 3600
_SHOWN_REASONS = 3


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="[bold]Example:[/bold] raftline estimate --config my.yaml --topics 50",
    )(estimate)


def estimate(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Pipeline configuration, YAML or JSON; the part 'synthesize' counts.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Pipeline whose corpus and index are used.")
    ] = None,
    topics: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many topics (or questions of yours) are tried. More cost more, and tell "
            "more exactly.",
        ),
    ] = 16,
    index: Annotated[
        str | None,
        typer.Option(
            metavar="REF",
            help="Index artifact, whose corpus is asked about; the pipeline's latest without it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the estimate as JSON.")] = False,
) -> None:
    """Tell how many requests and tokens, how much time and money a dataset will take.

    Asks the teacher about a few topics and extrapolates. What it writes for that is kept, and not
    paid for again when the dataset is made. The corpus and its index must be there.
    """
    from deployments.cli.configuration import read_pipeline_config
    from deployments.cli.progress import RichProgress
    from pipeline_lib.errors import ConfigError
    from pipeline_lib.raft.estimate import estimate as tell
    from pipeline_lib.stage import Workspace

    chosen = read_pipeline_config(config, name, "estimate")
    ws = Workspace.open(RichProgress(stderr_console(), is_transient=True))
    index_ref = ws.artifacts.resolve(index or f"index/{chosen.name}@latest")
    if index_ref.kind != "index":
        raise ConfigError(f"{index_ref} is no index", hint="raftline show lists all artifacts.")
    corpus_ref = ws.artifacts.manifest(index_ref).input_refs["corpus"]
    told = tell(ws, chosen.name, chosen.synthesize, corpus_ref, index_ref, topics)
    if as_json:
        typer.echo(told.model_dump_json(indent=1))
        return
    _print(stdout_console(), told)


def _print(out: Console, told: SynthesisEstimate) -> None:
    out.print(f"[bold]{told.name}[/bold] by {told.teacher}", soft_wrap=True)
    if told.is_made:
        out.print("[green]This dataset exists already: making it again asks for nothing.[/green]")
    if told.sample is None:
        out.print(f"All {told.num_rows_carried:,} rows can be taken over: nothing is asked for.")
        return
    _print_sample(out, told.sample, told.currency)
    out.print()
    out.print(_totals(told))
    out.print()
    out.print(_steps(told))
    if told.num_rows_carried:
        out.print(f"\n{told.num_rows_carried:,} rows more are taken over from the dataset before.")
    if told.budget_share is not None and told.budget_share < 1:
        out.print(
            f"[yellow]The budget reaches for about {told.budget_share:.0%} of this: the dataset "
            "will be partial.[/yellow]"
        )
    for note in told.notes:
        out.print(f"[yellow]{note}[/yellow]", soft_wrap=True)


def _print_sample(out: Console, sample: SampleRecord, currency: str) -> None:
    out.print(
        f"Tried {sample.num_topics} topics: {sample.num_rows} rows, {sample.num_requests:,} "
        f"requests, {sample.num_tokens:,} tokens{_money(sample.cost, currency, ' for ')}. "
        f"{sample.num_reused:,} answers were there already.",
        soft_wrap=True,
    )
    for step in sample.steps:
        worst = sorted(step.dropped.items(), key=lambda pair: -pair[1])[:_SHOWN_REASONS]
        reasons = ", ".join(f"{number} {reason}" for reason, number in worst)
        out.print(f"  {step.name:16} {step.kept:>4} kept" + (f"; dropped {reasons}" * bool(worst)))


def _totals(told: SynthesisEstimate) -> Table:
    from rich.table import Table

    table = Table("the run", box=None, padding=(0, 2))
    table.add_column("expected", justify="right")
    table.add_column("95% interval", justify="right", style="dim")
    for label, quantity in (
        (f"rows, of {told.num_rows_missing:,}", told.rows),
        ("topics", told.topics),
        ("requests", told.requests),
        ("prompt tokens", told.prompt_tokens),
        ("  of them cached", told.cached_tokens),
        ("completion tokens", told.completion_tokens),
        ("scored answers", told.scored_targets),
    ):
        if quantity.high > 0 or label.startswith("rows"):
            table.add_row(label, *_cells(quantity))
    if told.cost.high > 0:
        low, high = _money(told.cost.low, ""), _money(told.cost.high, "")
        table.add_row("cost", _money(told.cost.value, told.currency), f"{low} to {high}")
    table.add_row("time of the teacher", *_times(told.hours))
    return table


def _steps(told: SynthesisEstimate) -> Table:
    from rich.table import Table

    table = Table("by step", box=None, padding=(0, 2))
    for title in ("requests", "prompt tokens", "completion tokens", "scored answers"):
        table.add_column(title, justify="right")
    for step in told.steps:
        counts = step.requests, step.prompt_tokens, step.completion_tokens, step.scored_targets
        table.add_row(step.step, *(f"{count:,.0f}" if count else "" for count in counts))
    return table


def _cells(quantity: Quantity) -> tuple[str, str]:
    return f"{quantity.value:,.0f}", f"{quantity.low:,.0f} to {quantity.high:,.0f}"


def _times(hours: Quantity | None) -> tuple[str, str]:
    if hours is None:
        return "unknown", ""
    value, low, high = (
        duration(each * _HOUR_SECONDS) for each in (hours.value, hours.low, hours.high)
    )
    return value, f"{low} to {high}"


def _money(value: float, currency: str, before: str = "") -> str:
    """Cents where it is much, more digits where it is little, nothing where nothing is paid."""
    if not value:
        return ""
    digits = 2 if value >= 1 else 4
    return f"{before}{value:,.{digits}f} {currency}".rstrip()
