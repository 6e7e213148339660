"""Where the command prints: answers to standard output, everything else to standard error."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_PLAIN_WIDTH = 140
"""Columns when nobody's terminal says otherwise: tables in a log should not be squeezed."""


def stdout_console() -> Console:
    """For what was asked for."""
    return Console(width=_width(sys.stdout.isatty()), highlight=False)


def stderr_console() -> Console:
    """For progress, notes and errors."""
    return Console(stderr=True, width=_width(sys.stderr.isatty()), highlight=False)


def _width(is_terminal: bool) -> int | None:
    return None if is_terminal or "COLUMNS" in os.environ else _PLAIN_WIDTH


def duration(seconds: float) -> str:
    """Seconds as people read them: `4 s`, `2 min 05 s`, `1 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
