"""`raftline evaluate-retrieval`: how well an index finds what judged queries ask for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.cli.console import stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline_lib.config import RetrievalEvaluationConfig
    from pipeline_lib.evaluation.retrieval.records import (
        RetrievalSummary,
        SweepResult,
        SystemComparison,
    )

_COMMAND = "evaluate-retrieval"
_SHOWN_SETTINGS = 8
_FINGERPRINT = re.compile("[0-9a-f]{4,}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        name=_COMMAND,
        epilog=f"[bold]Example:[/bold] raftline {_COMMAND} my-questions/ --name docs --sweep",
    )(evaluate_retrieval)


def evaluate_retrieval(
    judgements: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="queries.jsonl and qrels.tsv (BEIR's layout), or TREC qrels, or spans.jsonl. "
            "Without it, the questions of a dataset artifact are asked.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Pipeline whose index is measured.")] = "demo",
    index: Annotated[
        str, typer.Option(metavar="REF", help="Index artifact, or its alias or fingerprint.")
    ] = "latest",
    dataset: Annotated[
        str, typer.Option(metavar="REF", help="Dataset artifact whose questions are asked.")
    ] = "latest",
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Compare other fusion settings too, and recommend.")
    ] = False,
    chunk_sizes: Annotated[
        list[int] | None,
        typer.Option(
            "--chunk-size",
            metavar="TOKENS",
            help="Also compare chunks of this size; may be repeated. Implies --sweep.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Configuration of the evaluation, YAML or JSON."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json.")] = False,
) -> None:
    """Measure the retrieval of an index: dense, BM25 and fused, with intervals.

    Makes an evaluation artifact with the metrics of every query, TREC runs that trec_eval and
    ir_measures read, and a report. With [bold]--sweep[/bold], settings are chosen on one half of
    the queries and confirmed on the other.
    """
    from deployments.cli.progress import RichProgress
    from pipeline_lib.evaluation.retrieval.records import REPORT_FILE, read_retrieval_summary
    from pipeline_lib.evaluation.retrieval.stage import evaluate_retrieval as stage
    from pipeline_lib.stage import Workspace

    chosen = _read_config(config, judgements, chunk_sizes or [], is_sweep=sweep)
    ws = Workspace.open(RichProgress(stderr_console(), is_transient=True))
    ref = ws.artifacts.resolve(_reference("index", name, index))
    asked = None
    if not chosen.has_files:
        asked = ws.artifacts.resolve(_reference("dataset", name, dataset))
    result = stage(ws, name, chosen, index=ref, dataset=asked)
    folder = ws.artifacts.directory(result.ref)
    summary = read_retrieval_summary(folder)
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
        return
    out = stdout_console()
    _print_systems(out, summary)
    _print_comparisons(out, summary)
    if summary.sweep is not None:
        _print_sweep(out, summary.sweep)
    out.print(f"\n[bold]Report[/bold]  {folder / REPORT_FILE}", soft_wrap=True)
    out.print(f"        {ws.artifacts.file_uri(result.ref, REPORT_FILE)}", soft_wrap=True)


def _read_config(
    file: Path | None, judgements: Path | None, chunk_sizes: list[int], *, is_sweep: bool
) -> RetrievalEvaluationConfig:
    """What the file says, and above it what the options say."""
    from deployments.cli.configuration import read_config_file, validated
    from pipeline_lib.config import RetrievalEvaluationConfig

    values: dict[str, Any] = read_config_file(file) if file else {}
    if judgements is not None:
        values["judgements"] = str(judgements)
    if is_sweep or chunk_sizes:
        values["sweep"] = values.get("sweep") or {}
    if chunk_sizes:
        values["sweep"] = {**values["sweep"], "chunk_sizes": chunk_sizes}
    return validated(RetrievalEvaluationConfig, values, str(file) if file else _COMMAND)


def _reference(kind: str, name: str, text: str) -> str:
    """Aliases and fingerprints belong to the pipeline; whole references stay as they are."""
    if "/" in text or "@" in text:
        return text
    is_fingerprint = _FINGERPRINT.fullmatch(text) and any(digit.isdigit() for digit in text)
    return f"{kind}/{name}/{text}" if is_fingerprint else f"{kind}/{name}@{text}"


def _print_systems(console: Console, summary: RetrievalSummary) -> None:
    from rich.table import Table

    console.print(
        f"{summary.num_queries:,} queries from {summary.source}, {summary.num_relevant:,} "
        f"relevant {summary.level}, {summary.num_chunks:,} chunks",
        soft_wrap=True,
        markup=False,
    )
    if summary.caveat:
        console.print(summary.caveat, style="yellow", soft_wrap=True, markup=False)
    table = Table("metric", box=None, padding=(0, 2))
    for system in summary.systems:
        table.add_column(f"{system.name}\n[dim]{system.description}[/dim]")
    for metric in summary.systems[0].estimates:
        cells = []
        for system in summary.systems:
            found = system.estimates[metric]
            cells.append(f"{found.mean:.3f} [dim]{found.low:.3f} to {found.high:.3f}[/dim]")
        table.add_row(metric, *cells)
    console.print(table)
    if summary.num_unmatched:
        console.print(
            f"[yellow]{summary.num_unmatched} judged items are not in the corpus and count as not "
            "found.[/yellow]"
        )


def _print_comparisons(console: Console, summary: RetrievalSummary) -> None:
    console.print("\n[bold]configured minus one branch[/bold]")
    for comparison in summary.comparisons:
        if comparison.metric == summary.metric:
            console.print(f"  {_described(comparison, summary)}")


def _described(comparison: SystemComparison, summary: RetrievalSummary) -> str:
    return (
        f"{comparison.against:7} {comparison.metric} {comparison.difference:+.3f} "
        f"({comparison.low:+.3f} to {comparison.high:+.3f}), p {comparison.adjusted_p_value:.4f} "
        f"(Holm, {len(summary.comparisons)} comparisons)"
    )


def _print_sweep(console: Console, sweep: SweepResult) -> None:
    from rich.table import Table

    console.print(
        f"\n[bold]sweep[/bold] of {len(sweep.settings)} settings on {sweep.num_dev:,} development "
        f"queries; {sweep.num_held_out:,} held out"
    )
    table = Table("setting", sweep.metric, "against in use", "p (Holm)", box=None, padding=(0, 2))
    for place, setting in enumerate(sweep.settings):
        compared = setting.comparison
        if place >= _SHOWN_SETTINGS and compared is not None:
            continue
        table.add_row(
            setting.name,
            f"{setting.estimate.mean:.3f}",
            f"{compared.difference:+.3f}" if compared else "",
            f"{compared.adjusted_p_value:.3f}" if compared else "",
        )
    console.print(table)
    console.print(sweep.recommendation, soft_wrap=True, markup=False)
    if sweep.recommended:
        fields = ", ".join(f"{field}: {value}" for field, value in sweep.recommended.items())
        console.print(f"Set {fields}", soft_wrap=True, markup=False)
