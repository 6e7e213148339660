"""`raftline review`: rows for people to judge, and their verdicts back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deployments.cli.console import stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline_lib.raft.review.importing import ImportReport
    from pipeline_lib.stage import Workspace

_SHOWN_REMARKS = 10
_TITLES = {
    "accept": "accepted",
    "edit": "edited",
    "reject": "rejected",
    "withdrawn": "withdrawn",
}

_Name = Annotated[str, typer.Option(help="Pipeline whose dataset is reviewed.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command and its three subcommands."""
    review = typer.Typer(no_args_is_help=True, help="Have people look at rows of a dataset.")
    review.command(
        name="export",
        epilog="[bold]Example:[/bold] raftline review export --name demo --rows 50 --to review/",
    )(export)
    review.command(
        name="import",
        epilog="[bold]Example:[/bold] raftline review import verdicts.json --name demo",
    )(import_)
    review.command(
        name="list",
        epilog="[bold]Example:[/bold] raftline review list --name demo --decision reject",
    )(list_)
    app.add_typer(review, name="review")


def export(
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")],
    name: _Name = "demo",
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="REF",
            help="Another dataset than the pipeline's latest: dataset/name@alias, or dataset/name/ "
            "and a fingerprint or its first digits.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="Most rows.")] = 50,
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        typer.Option(help="Only rows of this split."),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Only questions of this kind (factual, multi_hop, user, …); may be repeated.",
        ),
    ] = None,
    reviewed: Annotated[
        bool, typer.Option("--reviewed", help="Also rows that have a verdict already.")
    ] = False,
) -> None:
    """Write a sample of rows as review.html and review.csv.

    The page works anywhere without network; the table is for those who prefer a spreadsheet. The
    sample is random, the same for the same dataset, and leaves out what was reviewed before.
    """
    from pipeline_lib.errors import ConfigError
    from pipeline_lib.raft.review.page import PAGE_FILE, TABLE_FILE, write_page
    from pipeline_lib.raft.review.sample import draw_sample
    from pipeline_lib.raft.review.table import write_table
    from pipeline_lib.raft.rows import SPLITS

    ws = _workspace()
    ref = ws.artifacts.resolve(dataset or f"dataset/{name}@latest")
    if ref.kind != "dataset":
        raise ConfigError(f"{ref} is no dataset", hint="'raftline show' lists all artifacts.")
    sample = draw_sample(
        ws,
        ref,
        num_rows=rows,
        splits=(split,) if split else SPLITS,
        kinds=kinds or (),
        with_reviewed=reviewed,
    )
    to.mkdir(parents=True, exist_ok=True)
    write_page(sample, to / PAGE_FILE)
    write_table(sample, to / TABLE_FILE)
    out = stdout_console()
    out.print(
        f"{len(sample.rows):,} of {sample.num_eligible:,} rows of {sample.dataset}"
        + (f" ({sample.num_reviewed:,} have a verdict)" if sample.num_reviewed else ""),
        soft_wrap=True,
    )
    out.print(f"[bold]Page[/bold]   {(to / PAGE_FILE).resolve().as_uri()}", soft_wrap=True)
    out.print(f"[bold]Table[/bold]  {to / TABLE_FILE}", soft_wrap=True)
    out.print(
        f"\nThen: [bold]raftline review import verdicts.json --name {sample.dataset.name}[/bold]",
        soft_wrap=True,
    )


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="verdicts.json of the page, or the filled-in CSV."),
    ],
    name: _Name = "demo",
    reviewer: Annotated[
        str, typer.Option(help="Who decided, where the file does not say.", envvar="USER")
    ] = "",
    as_json: _Json = False,
) -> None:
    """Put verdicts in force: the next synthesis leaves out what was rejected and takes the edits.

    Files may be imported in any order and more than once: of several verdicts about one row the
    last one given holds.
    """
    from pipeline_lib.raft.review.importing import import_verdicts

    ws = _workspace()
    out = stdout_console()
    reports = {str(file): import_verdicts(ws, name, file, reviewer=reviewer) for file in files}
    if as_json:
        typer.echo(json.dumps({file: _as_json(r) for file, r in reports.items()}, indent=1))
        return
    for file, report in reports.items():
        _print_report(out, file, report)
    if any(report.num_new for report in reports.values()):
        out.print("They take effect when the dataset is made again.")


def list_(
    name: _Name = "demo",
    decision: Annotated[
        Literal["accept", "edit", "reject"] | None, typer.Option(help="Only these.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """List the verdicts in force."""
    from rich.table import Table
    from rich.text import Text

    from pipeline_lib.raft.review.verdicts import Verdicts

    verdicts = [
        verdict
        for verdict in Verdicts.load(_workspace(), name)
        if decision in (None, verdict.decision)
    ]
    if as_json:
        typer.echo(json.dumps([v.model_dump(mode="json") for v in verdicts], indent=1))
        return
    out = stdout_console()
    if not verdicts:
        out.print(f"No verdicts about {name}. Ask for some: [bold]raftline review export[/bold]")
        return
    table = Table("decided (UTC)", "verdict", "question", "becomes", "comment", "by", box=None)
    for verdict in verdicts:
        becomes = [verdict.edited_question, verdict.edited_answer]
        cells = [
            f"{verdict.decided_at:%Y-%m-%d %H:%M}",
            _TITLES[verdict.decision],
            verdict.question,
            " / ".join(filter(None, becomes)),
            verdict.comment,
            verdict.reviewer,
        ]
        table.add_row(*map(Text, cells))
    out.print(table)


def _workspace() -> Workspace:
    from deployments.cli.progress import RichProgress
    from pipeline_lib.stage import Workspace

    return Workspace.open(RichProgress(stderr_console(), is_transient=True))


def _as_json(report: ImportReport) -> dict[str, object]:
    return {
        "dataset": report.dataset.key,
        **{title: report.decisions.get(key, 0) for key, title in _TITLES.items()},
        "undecided": report.num_undecided,
        "new": report.num_new,
        "unknown": report.unknown,
        "problems": report.problems,
    }


def _print_report(out: Console, file: str, report: ImportReport) -> None:
    counts = [f"{report.decisions.get(key, 0):,} {title}" for key, title in _TITLES.items()]
    counts += [f"{len(report.unknown):,} unknown", f"{report.num_undecided:,} undecided"]
    out.print(f"{file}: {', '.join(counts)}", soft_wrap=True, markup=False)
    out.print(f"{report.num_new:,} are new, for {report.dataset}", soft_wrap=True)
    if report.unknown:
        _print_remarks(out, f"not in {report.dataset}", report.unknown)
    if report.problems:
        _print_remarks(out, "left out", report.problems)


def _print_remarks(out: Console, title: str, remarks: tuple[str, ...]) -> None:
    out.print(f"[yellow]{title}:[/yellow]", soft_wrap=True)
    for remark in remarks[:_SHOWN_REMARKS]:
        out.print(f"  {remark}", soft_wrap=True, markup=False)
    if len(remarks) > _SHOWN_REMARKS:
        out.print(f"  … and {len(remarks) - _SHOWN_REMARKS:,} more")
