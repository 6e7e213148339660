"""What stands in the log of a run that fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from flows.index import index
from pipeline_lib.errors import InputError
from pipeline_lib.stage import Workspace

pytestmark = pytest.mark.usefixtures("prefect_api")

RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Errors in the logs of runs."""
    heard: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = heard.append  # type: ignore[method-assign]
    for name in RUN_LOGGERS:
        logging.getLogger(name).addHandler(handler)
    yield heard
    for name in RUN_LOGGERS:
        logging.getLogger(name).removeHandler(handler)


def test_an_error_for_users_is_said_without_the_engines_traceback(
    fake_stages: Any, workspace: Workspace, records: list[logging.LogRecord]
) -> None:
    fake_stages.failures = {"index": [InputError("chunk 7 is broken", hint="Look at it")]}
    with pytest.raises(InputError):
        index(name="docs", corpus=_corpus(workspace))
    said = [record.getMessage() for record in records]
    assert "InputError: chunk 7 is broken\n  hint: Look at it" in said
    assert not [record for record in records if record.exc_info], "no traceback"


def test_an_error_that_nobody_has_foreseen_keeps_its_traceback(
    fake_stages: Any, workspace: Workspace, records: list[logging.LogRecord]
) -> None:
    fake_stages.failures = {"index": [ZeroDivisionError("division by zero")]}
    with pytest.raises(ZeroDivisionError):
        index(name="docs", corpus=_corpus(workspace))
    assert [record for record in records if record.exc_info]


def test_with_the_level_debug_tracebacks_are_there(
    fake_stages: Any,
    workspace: Workspace,
    records: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("prefect.flow_runs"), "level", logging.DEBUG)
    fake_stages.failures = {"index": [InputError("chunk 7 is broken")]}
    with pytest.raises(InputError):
        index(name="docs", corpus=_corpus(workspace))
    assert [record for record in records if record.exc_info]


def _corpus(workspace: Workspace) -> str:
    from flows.ingest import ingest

    return str(ingest(name="docs").ref)
