"""`raftline ask`: one question, its answer, and the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.console import stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline_lib.answering import Answer

_STATUS_STYLES = {
    "verbatim": "green",
    "misattributed": "yellow",
    "stitched": "yellow",
    "absent": "red",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog='[bold]Example:[/bold] raftline ask "What does the with statement do?" --model base',
    )(ask)


def ask(
    question: Annotated[str, typer.Argument(help="Your question, in quotes.")],
    model: Annotated[
        str,
        typer.Option(help="'champion', 'base', another alias, or a model's fingerprint."),
    ] = "champion",
    name: Annotated[str, typer.Option(help="Pipeline whose index and models answer.")] = "demo",
    passages: Annotated[int, typer.Option(min=1, max=50, help="Passages to retrieve.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer a question from the documents, with every quote checked against its source.

    A quote is [green]verbatim[/green]: word for word in the passage it cites;
    [yellow]misattributed[/yellow]: word for word in another passage;
    [yellow]stitched[/yellow]: pieced together from a passage; or
    [red]absent[/red]: in no passage.
    """
    from deployments.cli.configuration import validated
    from deployments.cli.progress import RichProgress
    from pipeline_lib.answering import answer
    from pipeline_lib.config import AnswerConfig
    from pipeline_lib.stage import Workspace

    values = {"question": question, "name": name, "model": model, "context_size": passages}
    config = validated(AnswerConfig, values, "ask")
    result = answer(Workspace.open(RichProgress(stderr_console(), is_transient=True)), config)
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        _print_answer(stdout_console(), result)


def _print_answer(console: Console, answer: Answer) -> None:
    from rich.padding import Padding
    from rich.text import Text

    if answer.final_answer is None:
        console.print("[yellow]The model gave no final answer; this is what it wrote:[/yellow]")
        console.print(Padding(Text(answer.text.strip()), (0, 0, 0, 2), expand=False))
    elif answer.is_refusal:
        console.print(Text("The passages do not answer this: ", style="yellow"), end="")
        console.print(Text(answer.final_answer))
    else:
        console.print(Text(answer.final_answer, style="bold"))
    console.print(Text(f"answered by {answer.model}", style="dim"))

    console.print("\n[bold]Quotes[/bold]" if answer.quotes else "\nThe answer quotes nothing.")
    for quote in answer.quotes:
        mark = "✓" if quote.status == "verbatim" else "✗"
        status = f" {mark} {quote.status:<13} "
        console.print(Text.assemble((status, _STATUS_STYLES[quote.status]), f"“{quote.text}”"))
        if quote.source_uri:
            source = f"{quote.title} ({quote.source_uri})" if quote.title else quote.source_uri
            console.print(Text(" " * len(status) + source, style="dim"))

    console.print("\n[bold]Passages[/bold]")
    for passage in answer.passages:
        heading = f" {passage.number}. {passage.title or passage.source_uri}"
        console.print(Text.assemble((heading, "cyan"), (f"  {passage.source_uri}", "dim")))
        console.print(Padding(Text(passage.text.strip(), style="dim"), (0, 0, 0, 4), expand=False))
