"""`raftline demo`: everything, from documents to a promoted model, and what it came to."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from deployments.cli.console import duration, stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from deployments.stack.local import LocalStack
    from flows.summary import PipelineSummary
    from pipeline_lib.artifacts.store import ArtifactStore
    from pipeline_lib.config import PipelineConfig
    from pipeline_lib.evaluation.records import EvaluationSummary

_LIBRARY = "pipeline_lib"
_SHORT = 8
_SHOWN_REASONS = 3
_SAMPLE_QUESTION = "What does the with statement do?"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="[bold]Example:[/bold] raftline demo --config my.yaml --name my-docs",
    )(demo)


def demo(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Pipeline configuration, YAML or JSON."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Names every artifact of this run.")] = None,
) -> None:
    """Run the whole pipeline: on the built-in sample, or on what the configuration names.

    Starts the local stack and fetches the models, if they are not there. Whatever was made before
    from the same documents and configuration is reused.
    """
    from deployments.cli.configuration import read_pipeline_config
    from deployments.cli.models import fetch_models
    from deployments.cli.stack import start_stack
    from pipeline_lib.settings import load_settings

    started = time.monotonic()
    pipeline_config = read_pipeline_config(config, name, "demo")
    stack = start_stack()
    fetch_models(load_settings(stack.home), _bundled_models(pipeline_config))
    summary, run_url = _run(stack, pipeline_config)

    from pipeline_lib.artifacts.store import CHAMPION, ArtifactStore
    from pipeline_lib.evaluation.records import REPORT_FILE

    store = ArtifactStore(load_settings(stack.home))
    report = _copy_report(store, summary, stack.home / "reports")
    out = stdout_console()
    _print_stages(out, summary, time.monotonic() - started)
    _print_metrics(out, store, summary)
    out.print(f"\n[bold]Report[/bold]      {report}", soft_wrap=True)
    out.print(f"            {report.as_uri()}", soft_wrap=True)
    out.print(f"            {store.file_uri(summary.evaluation.ref, REPORT_FILE)}", soft_wrap=True)
    out.print(f"[bold]Prefect UI[/bold]  {run_url}", soft_wrap=True)
    has_champion = store.alias("model", pipeline_config.name, CHAMPION) is not None
    _print_next_commands(out, pipeline_config, config, has_champion=has_champion)


def _bundled_models(config: PipelineConfig) -> list[str]:
    """References of the bundled models that a run needs."""
    from pipeline_lib.models import BUNDLED_PREFIX

    wanted = [config.index.embedding_model, config.finetune.base_model]
    if config.synthesize.teacher.kind == "local":
        wanted.append(config.synthesize.teacher.model)
    return [each for each in dict.fromkeys(wanted) if each.startswith(BUNDLED_PREFIX)]


def _run(stack: LocalStack, config: PipelineConfig) -> tuple[PipelineSummary, str | None]:
    """Run the flow in this process, and give its result and its page in the UI."""
    console = stderr_console()
    _point_prefect_at(stack)
    with console.status("Loading the pipeline"):
        from prefect.exceptions import CancelledRun, FailedRun
        from prefect.utilities.urls import url_for

        from deployments.cli.progress import RichProgress
        from flows.pipeline import pipeline
        from flows.runtime import use_progress
        from pipeline_lib.errors import RaftlineError

    with use_progress(RichProgress(console)):
        state = pipeline(config, return_state=True)
    try:
        summary: PipelineSummary = state.result()
    except (CancelledRun, FailedRun) as error:  # ended without an error: by whom it had to ask
        raise RaftlineError(state.message or str(error)) from error
    return summary, url_for("flow-run", obj_id=state.state_details.flow_run_id)


def _point_prefect_at(stack: LocalStack) -> None:
    """Set the environment that Prefect reads when it is imported; it must not be, yet."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        if not name.startswith("PREFECT_LOGGING_"):
            del os.environ[name]
    os.environ.update(stack.client_environment())
    # Runs log to the server; the terminal has the progress, and hears of problems.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    logging.getLogger(_LIBRARY).handlers.clear()  # Prefect's handlers show its warnings from now on


def _copy_report(store: ArtifactStore, summary: PipelineSummary, folder: Path) -> Path:
    """A copy of the report where people find it."""
    from pipeline_lib.evaluation.records import REPORT_FILE

    ref = summary.evaluation.ref
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{ref.name}-{ref.fingerprint[:_SHORT]}.html"
    shutil.copyfile(store.directory(ref) / REPORT_FILE, target)
    return target


def _print_stages(out: Console, summary: PipelineSummary, seconds: float) -> None:
    from rich.table import Table

    if summary.is_unchanged:
        out.print(
            f"\n[green]Nothing has changed: every artifact was reused[/green] "
            f"({duration(seconds)}).\n"
        )
    else:
        out.print(f"\n[green]Done in {duration(seconds)}.[/green]\n")
    table = Table("stage", "", "time", "counts", "dropped", box=None)
    for stage, result in summary.stages.items():
        counts = ", ".join(f"{_words(name)} {n:,}" for name, n in list(result.counts.items())[:4])
        made = "reused" if result.reused else "built"
        table.add_row(stage, made, duration(result.seconds), counts, _drops(result.dropped))
    out.print(table)
    out.print("\n[bold]Artifacts[/bold]")
    for result in summary.stages.values():
        out.print(f"  {result.uri}", soft_wrap=True)


def _drops(dropped: Mapping[str, int]) -> str:
    """How many were dropped, and the commonest reasons; the others are in the manifest."""
    if not dropped:
        return "-"
    reasons = sorted(dropped.items(), key=lambda reason: -reason[1])
    shown = ", ".join(f"{_words(name)} {count:,}" for name, count in reasons[:_SHOWN_REASONS])
    more = ", …" if len(reasons) > _SHOWN_REASONS else ""
    return f"{sum(dropped.values()):,}: {shown}{more}"


def _print_metrics(out: Console, store: ArtifactStore, summary: PipelineSummary) -> None:
    from rich.table import Table

    from flows.summary import promotion_message
    from pipeline_lib.evaluation.records import read_summary
    from tasks.presentation import metrics_table

    evaluation = read_summary(store.directory(summary.evaluation.ref))
    rows = metrics_table(evaluation.model_copy(update={"retrieval": {}}))
    out.print(
        f"\n[bold]Base against fine-tuned[/bold] on {evaluation.num_questions} held-out "
        f"questions, with {evaluation.confidence:.0%} intervals"
    )
    if rows:
        table = Table(*rows[0], box=None)
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        out.print(table)
    if evaluation.retrieval:
        out.print("\n[bold]Retrieval[/bold], the same for both; intervals are in the report")
        out.print(_retrieval_table(evaluation))
    out.print(f"\n{escape(promotion_message(summary.promotion))}", soft_wrap=True)


def _retrieval_table(evaluation: EvaluationSummary) -> Table:
    """Metrics down, cutoffs across."""
    from rich.table import Table

    names = [name.split("@") for name in evaluation.retrieval]
    cutoffs = list(dict.fromkeys(cutoff for _, cutoff in names))
    table = Table("Metric", *(f"@{cutoff}" for cutoff in cutoffs), box=None)
    for metric in dict.fromkeys(metric for metric, _ in names):
        estimates = [evaluation.retrieval.get(f"{metric}@{cutoff}") for cutoff in cutoffs]
        table.add_row(metric, *(f"{each.mean:.3f}" if each else "" for each in estimates))
    return table


def _print_next_commands(
    out: Console, config: PipelineConfig, file: Path | None, *, has_champion: bool
) -> None:
    from pipeline_lib.config import PipelineConfig

    is_default = config.name == PipelineConfig().name
    name = "" if is_default else f" --name {config.name}"
    model = "" if has_champion else " --model latest"
    command = own_command()
    options = f" --config {shlex.quote(str(file))}" if file else ""
    again = f"{command} demo{options}{name}"
    if is_default and file is None and Path("Makefile").is_file():
        again = "make demo"
    out.print("\n[bold]Try next[/bold]")
    out.print(f'  {command} ask{name}{model} "{_SAMPLE_QUESTION}"', soft_wrap=True)
    out.print(f"  {again}   (again: everything is reused)", soft_wrap=True)


def own_command() -> str:
    """How this command can be typed again: its bare name if the shell would find the same one."""
    this = Path(sys.argv[0])
    found = shutil.which("raftline")
    if this.name != "raftline" or (found and Path(found).resolve() == this.resolve()):
        return "raftline"
    return str(this)


def _words(name: str) -> str:
    return name.removeprefix("num_").replace("_", " ")
