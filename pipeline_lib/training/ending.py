"""Ends a rank with its own status, whatever its threads do.

When Python takes itself down, a thread of native code that asks for its lock ends the whole process
with SIGABRT and "terminate called without an active exception" (Python before 3.14). Gloo's threads
ask for it when they let go of a tensor, and `destroy_process_group` does not end them where
somebody else, as DeepSpeed does, still refers to the group (PyTorch 2.13; pytorch/pytorch#190489).
A training that had saved everything was then reported as failed, about once in hundreds of runs.
"""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def run_and_end(main: Callable[[], None]) -> NoReturn:
    """Call `main`, and end this process as Python would, but without taking Python down.

    What is registered with `atexit` is called and output is flushed; threads are not waited for.
    The exit status is 0, that of a `SystemExit`, or 1 with a traceback.
    """
    status = 0
    try:
        main()
    except SystemExit as exit_:
        status = _status_of(exit_)
    except BaseException:  # noqa: BLE001  (the process ends, and says of what)
        traceback.print_exc()
        status = 1
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status_of(exit_: SystemExit) -> int:
    if exit_.code is None or isinstance(exit_.code, int):
        return exit_.code or 0
    sys.stderr.write(f"{exit_.code}\n")
    return 1
