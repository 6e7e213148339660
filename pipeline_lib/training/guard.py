"""Ties the life of a process to its parent's, so that no rank outlives what started it.

`python -m pipeline_lib.training.guard <module> [arguments]` runs a module under that promise.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1
PARENT_VARIABLE = "RAFTLINE_PARENT_PID"


def die_with_parent(expected_parent: int | None = None) -> None:
    """Ask the kernel for SIGKILL when the parent ends (Linux; elsewhere a no-op).

    Args:
        expected_parent: the parent's pid as the parent knows it. If it is gone already, the
            process ends now: the kernel would never tell.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if expected_parent is not None and os.getppid() != expected_parent:
        sys.exit("the parent process ended before this one had started")


if __name__ == "__main__":
    die_with_parent(int(os.environ[PARENT_VARIABLE]))
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
