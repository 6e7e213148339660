"""The command's root: one clear line for every error, `--debug` anywhere, Ctrl-C ends tidily."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup
from typer.exceptions import TyperException

from deployments.cli.console import stderr_console
from pipeline_lib.errors import RaftlineError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect."""
_DEBUG = "--debug"
_OUR_LOGGERS = ("pipeline_lib", "tasks", "flows", "deployments")


class RaftlineGroup(TyperGroup):
    """Runs a subcommand and turns what it raises into a message and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept `--debug` after the subcommand as well."""
        own, separator, rest = _split(args, "--")
        if _DEBUG in own:
            own = [_DEBUG, *(arg for arg in own if arg != _DEBUG)]
        return super().parse_args(ctx, [*own, *separator, *rest])

    def invoke(self, ctx: Any) -> Any:
        """Run the command line.

        Raises:
            typer.Exit: with code 1 after an error, 130 after Ctrl-C.
        """
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except KeyboardInterrupt:
            stderr_console().print("[yellow]interrupted[/yellow]")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # the reader of our output has left; Typer ends quietly
        except RaftlineError as error:
            _report(error, error.message, error.hint, is_debug=_is_debug(ctx))
            raise typer.Exit(1) from error
        except Exception as error:
            message = f"unexpected {type(error).__name__}: {error}"
            is_debug = _is_debug(ctx)
            hint = None if is_debug else "Run it again with --debug to see where this comes from."
            _report(error, message, hint, is_debug=is_debug)
            raise typer.Exit(1) from error


def configure_logging(is_debug: bool) -> None:
    """Show our own log on standard error with `--debug`; warnings only without."""
    from rich.logging import RichHandler

    level = logging.DEBUG if is_debug else logging.WARNING
    console = stderr_console()
    handler = RichHandler(level, console=console, show_path=is_debug, show_time=is_debug)
    for name in _OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
    logging.getLogger("DeepSpeed").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not that there is no GPU: transformers imports DeepSpeed, which warns of it each time."""
    return "Setting accelerator to CPU" not in record.getMessage()


def _report(error: BaseException, message: str, hint: str | None, *, is_debug: bool) -> None:
    console = stderr_console()
    if is_debug:
        _print_traceback(console, error)
    console.print(f"[bold red]error:[/bold red] {escape(message)}", soft_wrap=True)
    if hint:
        console.print(f"[bold]hint:[/bold] {escape(hint)}", soft_wrap=True)


def _print_traceback(console: Console, error: BaseException) -> None:
    """Plainly: locals, as prettier tracebacks show them, may hold credentials."""
    import traceback

    console.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)


def _is_debug(ctx: Any) -> bool:
    return bool(ctx.params.get("debug"))


def _split(args: Iterable[str], separator: str) -> tuple[list[str], list[str], list[str]]:
    before: list[str] = []
    remaining = list(args)
    while remaining and remaining[0] != separator:
        before.append(remaining.pop(0))
    return before, remaining[:1], remaining[1:]
