"""The child's side of the sandbox: `python -m pipeline_lib.corpus.sandbox_child`.

Reads requests from one pipe and answers on another, one frame each. Standard output and standard
error are left to whatever the target prints. The parent's side is `sandbox.py`.
"""

from __future__ import annotations

import importlib
import os
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

REQUEST_HEADER = struct.Struct(">Q")
"""Length of the payload that follows."""
REPLY_HEADER = struct.Struct(">cBQ")
"""What the answer is, whether the child ends after it, and the length of what follows."""
READY = b"r"
DONE = b"d"
RAISED = b"e"
NO_MEMORY = b"m"

_MAX_ERROR_CHARS = 2000
_PR_SET_PDEATHSIG = 1
_RETIRE_FRACTION = 0.5
"""A child that has grown for good by this share of an item's allowance is replaced."""

Handler = Callable[[bytes], bytes]


def main(arguments: list[str]) -> None:
    """Serve requests until the parent closes the pipe.

    `arguments` are the pipe to read, the pipe to write, the parent's process id, the bytes of
    memory that one item may add, and the target as `module:factory`. The first frame is the
    factory's argument; it is answered with `READY`.
    """
    requests, replies, parent_pid, max_memory_bytes = map(int, arguments[:4])
    _die_with_parent(parent_pid)
    handler = _make_handler(arguments[4], _read_frame(requests) or b"")
    _send(replies, READY, b"", is_last=False)
    baseline = _virtual_memory_bytes()
    while (payload := _read_frame(requests)) is not None:
        before = _virtual_memory_bytes()
        _limit_memory(before + max_memory_bytes)
        kind, answer = _handle(handler, payload)
        grown = _virtual_memory_bytes() - baseline
        is_last = kind == NO_MEMORY or grown > _RETIRE_FRACTION * max_memory_bytes
        _send(replies, kind, answer, is_last=is_last)
        if is_last:
            return


def _make_handler(target: str, argument: bytes) -> Handler:
    module, _, factory = target.partition(":")
    handler: Handler = getattr(importlib.import_module(module), factory)(argument)
    return handler


def _handle(handler: Handler, payload: bytes) -> tuple[bytes, bytes]:
    try:
        return DONE, handler(payload)
    except MemoryError:
        return NO_MEMORY, b""
    except Exception as error:  # noqa: BLE001 - the parent makes an outcome of it
        text = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]
        return RAISED, text.encode("utf-8", "backslashreplace")


def _die_with_parent(parent_pid: int) -> None:
    """On Linux the kernel ends this process with its parent; elsewhere it ends when next idle."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the call above
        os._exit(1)


def _virtual_memory_bytes() -> int:
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _limit_memory(num_bytes: int) -> None:
    """Address space, the only limit on memory that Linux enforces for one process."""
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            num_bytes = min(num_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, hard))


def _read_frame(descriptor: int) -> bytes | None:
    """The next payload; `None` when the parent has closed the pipe."""
    header = _read_exactly(descriptor, REQUEST_HEADER.size)
    if header is None:
        return None
    return _read_exactly(descriptor, REQUEST_HEADER.unpack(header)[0])


def _read_exactly(descriptor: int, size: int) -> bytes | None:
    buffer = bytearray()
    while len(buffer) < size:
        piece = os.read(descriptor, min(size - len(buffer), 1 << 20))
        if not piece:
            return None
        buffer += piece
    return bytes(buffer)


def _send(descriptor: int, kind: bytes, answer: bytes, *, is_last: bool) -> None:
    header = REPLY_HEADER.pack(kind, is_last, len(answer))
    for data in (header, answer):
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main(sys.argv[1:])
