"""Processes that tests start."""

from __future__ import annotations

import subprocess


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a process and wait; kill it when it does not listen."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
