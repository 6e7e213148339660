"""How an error that is meant for users stands in the log of a run: once, and as it is meant.

Prefect logs every exception with its traceback, a flow's twice. An error of ours says what was
wrong, where, and what to do; hundred lines of Prefect's engine around it hide that. Any other
exception, which nobody has foreseen, keeps its traceback, and with the log level DEBUG so do ours.
"""

from __future__ import annotations

import logging

from pipeline_lib.errors import RaftlineError

_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


class _ErrorsForUsers(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, RaftlineError) or _is_debugged(record.name):
            return True
        arguments = record.args if isinstance(record.args, tuple) else ()
        if not any(argument is error for argument in arguments):
            return False  # another record names the error; this one adds a traceback
        record.msg, record.args = "%s: %s", (type(error).__name__, error)
        record.exc_info = None
        return True


_FILTER = _ErrorsForUsers()


def show_errors_for_users() -> None:
    """Make the logs of runs in this process show errors as they are meant; again does nothing."""
    for name in _RUN_LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)


def _is_debugged(logger: str) -> bool:
    return logging.getLogger(logger).isEnabledFor(logging.DEBUG)
