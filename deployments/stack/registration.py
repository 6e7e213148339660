"""Registering the deployments with the stack's Prefect server, in a process of its own.

Importing Prefect and the flows takes seconds. The process is started together with the server and
does that meanwhile; it then waits for one line on its standard input before it calls the server.
The end of input without that line means that `up` is gone, and ends it.

    python -m deployments.stack.registration PROJECT_ROOT RESULT_FILE
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from deployments.stack.processes import log_tail
from pipeline_lib.errors import StackError

_GO = "go\n"
_TIMEOUT_SECONDS = 120.0
_DIGESTED = (
    "deployments/*.yaml",
    "deployments/*.py",
    "flows/**/*.py",
    "pipeline_lib/config/*.py",
)


def code_digest(project_root: Path) -> str:
    """Changes whenever the deployments (schedules, parameters, entrypoints) may have changed."""
    digest = hashlib.sha256(f"{project_root}\n".encode())
    for path in sorted({file for each in _DIGESTED for file in project_root.glob(each)}):
        digest.update(f"{path.relative_to(project_root)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Registration:
    """The running process; a context manager that never leaves it behind."""

    def __init__(self, project_root: Path, environment: Mapping[str, str], log_path: Path) -> None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_path = log_path
        self._result_file = log_path.with_suffix(".json")
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(project_root), str(self._result_file)],
                env=dict(environment),
                cwd=project_root,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )

    def finish(self) -> tuple[str, ...]:
        """Let it call the server, which must be up by now; returns the deployments' names.

        Raises:
            StackError: it failed or took too long.
        """
        try:
            self._process.communicate(_GO, timeout=_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise StackError(
                f"Registering the deployments took more than {_TIMEOUT_SECONDS:.0f} s",
                hint=f"See its log: {self._log_path}",
            ) from error
        if self._process.returncode != 0:
            raise StackError(
                f"The deployments could not be registered. The end of the log:\n"
                f"{log_tail(self._log_path)}",
                hint=f"The whole log is {self._log_path}. Try again: raftline up",
            )
        return tuple(json.loads(self._result_file.read_text()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def main(project_root: Path, result_file: Path) -> int:
    """Import, wait, deploy; write the deployments' names as JSON."""
    from deployments.deploy import PrefectFile, deploy_all

    for deployment in PrefectFile.load().deployments:
        deployment.load_flow()
    if sys.stdin.readline() != _GO:
        return 1
    result_file.write_text(json.dumps(deploy_all(project_root)))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
