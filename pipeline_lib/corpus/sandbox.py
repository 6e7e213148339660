"""Runs a function over many payloads in child processes that may hang, crash or grow.

Parsers are large programs in C that read files from strangers. Each item runs in a child that has a
time limit counted from the item's own start and a limit on the memory that the item may add. A
child that breaks either, or dies, is replaced, and its item becomes an outcome like any other.

Children are interpreters of their own, never forks: a fork would copy the locks of whatever
threads the parent runs. Bytes travel over pipes in length-prefixed frames, so nothing is pickled,
and what a parser prints goes elsewhere and cannot corrupt a frame. On Linux the kernel ends the
children with their parent, also when that is killed. This contains accidents; it is not a security
boundary against code that has taken over a child.

Cost: about 0.1 ms per item, and the start of an interpreter (with the target's imports) per child.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from pipeline_lib.corpus import sandbox_child
from pipeline_lib.corpus.sandbox_child import NO_MEMORY, RAISED, REPLY_HEADER, REQUEST_HEADER
from pipeline_lib.errors import RaftlineError

_READ_AHEAD_PER_WORKER = 4
_START_SECONDS = 120.0
"""For the interpreter and the target's imports, on a loaded machine."""
_END_SECONDS = 2.0
"""Between the end of a child's pipe and the end of its process."""
_LONGEST_WAIT = 3600.0
"""A larger timeout, as of a limit that means "none", overflows the system call's."""
_PIECE_BYTES = 1 << 16
_MAX_NOISE_BYTES = 4096
_OUT_OF_MEMORY_SIGNS = (b"MemoryError", b"bad_alloc", b"memory allocation of", b"out of memory")
"""What the runtimes of Python, C++ and Rust print before they give up."""
_ONE_THREAD_EACH = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "2",  # each further arena takes 64 MB of address space
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # its own takes 1 GB of address space
}
"""The pool is the parallelism; threads inside its children would only compete."""

K = TypeVar("K")


@dataclass(frozen=True)
class Done:
    """The target returned."""

    data: bytes


@dataclass(frozen=True)
class TimedOut:
    """The target was stopped at the time limit."""

    seconds: float


@dataclass(frozen=True)
class OutOfMemory:
    """The target needed more memory than the limit."""


@dataclass(frozen=True)
class Crashed:
    """The target raised, or its process died."""

    detail: str


Outcome = Done | TimedOut | OutOfMemory | Crashed


class SandboxPool:
    """A context manager that holds the children; they start when there is work for them.

    Args:
        target: `module:factory`; called in each child with `factory_argument`, it returns the
            function from payload to result.
        factory_argument: what all items share; sent once per child.
        num_workers: most children at once.
        max_seconds: for one item.
        max_memory_bytes: that one item may add to its child; enforced on Linux only.
        read_ahead: most items that are taken from the input before their results are asked for.
    """

    def __init__(
        self,
        target: str,
        factory_argument: bytes,
        *,
        num_workers: int,
        max_seconds: float,
        max_memory_bytes: int,
        read_ahead: int | None = None,
    ) -> None:
        self._target = target
        self._factory_argument = factory_argument
        self._max_seconds = max_seconds
        self._max_memory_bytes = max_memory_bytes
        self._read_ahead = read_ahead or _READ_AHEAD_PER_WORKER * num_workers
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="sandbox")
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all children at once, also those that are working."""
        with self._lock:
            self._is_closed = True
            for child in self._children:
                child.kill()
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.close()
        self._children.clear()

    def map(self, payloads: Iterable[tuple[K, bytes]]) -> Iterator[tuple[K, Outcome]]:
        """The outcome of each payload, in order.

        Raises:
            RaftlineError: a child could not start, so no item would ever succeed.
        """
        waiting: deque[tuple[K, Future[Outcome]]] = deque()
        for key, payload in payloads:
            waiting.append((key, self._threads.submit(self._run, payload)))
            if len(waiting) >= self._read_ahead:
                yield _result(waiting)
        while waiting:
            yield _result(waiting)

    def _run(self, payload: bytes) -> Outcome:
        child = self._take_child()
        outcome, may_go_on = child.ask(payload, self._max_seconds)
        if may_go_on:
            self._idle.put(child)
        else:
            with self._lock:
                self._children.discard(child)
            child.close()
        return outcome

    def _take_child(self) -> _Child:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the sandbox pool is closed")
            child = _Child(self._target, self._max_memory_bytes)
            self._children.add(child)
        child.start(self._factory_argument)
        return child


def _result(waiting: deque[tuple[K, Future[Outcome]]]) -> tuple[K, Outcome]:
    key, future = waiting.popleft()
    return key, future.result()


class _Child:
    """One interpreter and the parent's ends of its three pipes."""

    def __init__(self, target: str, max_memory_bytes: int) -> None:
        child_requests, self._requests = os.pipe()
        self._replies, child_replies = os.pipe()
        self._noise, child_noise = os.pipe()
        self._noise_tail = b""
        arguments = (child_requests, child_replies, os.getpid(), max_memory_bytes, target)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", sandbox_child.__name__, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=child_noise,
                stderr=child_noise,
                pass_fds=(child_requests, child_replies),
                start_new_session=True,  # so that it can be ended with whatever it started
                env=os.environ | _ONE_THREAD_EACH | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        finally:
            for descriptor in (child_requests, child_replies, child_noise):
                os.close(descriptor)
        for descriptor in (self._requests, self._replies, self._noise):
            os.set_blocking(descriptor, False)

    def start(self, factory_argument: bytes) -> None:
        """Wait until the target is ready."""
        outcome, is_ready = self.ask(factory_argument, _START_SECONDS)
        if not is_ready:
            noise = self._noise_tail.decode("utf-8", "replace").strip()
            raise RaftlineError(
                f"A parser process could not start: {noise or outcome}",
                hint="Processes are started with the interpreter and the import path of this one.",
            )

    def ask(self, payload: bytes, max_seconds: float) -> tuple[Outcome, bool]:
        """Send a payload and wait for the outcome; and whether the child can take another."""
        self._noise_tail = b""
        deadline = time.monotonic() + max_seconds
        reply = self._exchange(REQUEST_HEADER.pack(len(payload)) + payload, deadline)
        if reply is None:
            if time.monotonic() >= deadline:
                return TimedOut(max_seconds), False
            return self._cause_of_death(), False
        kind, is_last, _ = REPLY_HEADER.unpack_from(reply)
        answer = bytes(memoryview(reply)[REPLY_HEADER.size :])
        if kind == NO_MEMORY:
            return OutOfMemory(), False
        if kind == RAISED:
            return Crashed(answer.decode("utf-8", "replace")), not is_last
        return Done(answer), not is_last

    def _exchange(self, request: bytes, deadline: float) -> bytearray | None:
        """Write the request and read the whole reply; `None`: the child died or time is up."""
        unsent, reply = memoryview(request), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_WRITE)
            selector.register(self._replies, selectors.EVENT_READ)
            selector.register(self._noise, selectors.EVENT_READ)
            while (remaining := deadline - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(min(remaining, _LONGEST_WAIT))}
                if self._noise in ready and not self._read_noise():
                    selector.unregister(self._noise)
                if self._requests in ready:
                    unsent = self._write(unsent)
                    if not unsent:
                        selector.unregister(self._requests)
                if self._replies in ready:
                    piece = os.read(self._replies, _PIECE_BYTES)
                    reply += piece
                    if not piece or _is_whole(reply):
                        return reply if piece else None
        return None

    def _write(self, unsent: memoryview) -> memoryview:
        """What is left to write; nothing when the child no longer reads."""
        try:
            return unsent[os.write(self._requests, unsent) :]
        except BrokenPipeError:
            return unsent[:0]

    def _read_noise(self) -> bytes:
        piece = os.read(self._noise, _PIECE_BYTES)
        self._noise_tail = (self._noise_tail + piece)[-_MAX_NOISE_BYTES:]
        return piece

    def _cause_of_death(self) -> Outcome:
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return Crashed("stopped answering")
        with contextlib.suppress(BlockingIOError):  # something it started still holds the pipe
            while self._read_noise():
                pass
        if status == -signal.SIGKILL:  # nobody but the kernel, when the machine is out of memory
            return OutOfMemory()
        if any(sign in self._noise_tail for sign in _OUT_OF_MEMORY_SIGNS):
            return OutOfMemory()
        return Crashed(_status_text(status))

    def kill(self) -> None:
        """End the process and what it has started; harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill, reap and release the pipes."""
        self.kill()
        self._process.wait()
        for descriptor in (self._requests, self._replies, self._noise):
            os.close(descriptor)


def _is_whole(reply: bytearray) -> bool:
    if len(reply) < REPLY_HEADER.size:
        return False
    _, _, length = REPLY_HEADER.unpack_from(reply)
    return len(reply) >= REPLY_HEADER.size + int(length)


def _status_text(status: int) -> str:
    if status >= 0:
        return f"the process ended with status {status}"
    try:
        return f"the process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"the process was ended by signal {-status}"
