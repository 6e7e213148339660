"""A chat server on loopback that can be told to misbehave."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.endpoint import EndpointGenerator
from tests.http_serving import serving

KEY = "sk-very-secret-0123456789"
IDLE_SECONDS = 0.5
"""After which the server closes a connection on which nothing is asked."""
PARAMS = GenerationParams(max_new_tokens=16, seed=5, stop=("END",))
MakeClient = Callable[..., EndpointGenerator]
"""Makes a client of the endpoint, with these fields of `TeacherConfig` and some of `Settings`."""


@dataclass
class Fault:
    """What to answer instead of a completion."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": {"message": "no"}}'
    seconds: float = 0.0
    is_hanging_up: bool = False
    is_reset: bool = False
    """The connection is torn down without a goodbye."""
    bytes_sent: int | None = None
    """Of the body, before the connection ends; all are promised."""
    drip_seconds: float = 0.0
    """Between any two bytes of the body."""


@dataclass
class Endpoint:
    """What the server saw, and what it is to do next."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    """Used up one per request, in order."""
    always: Fault | None = None
    refuses: Callable[[dict[str, Any]], Fault | None] = lambda _: None
    """What the server does not understand of a request."""
    most_allowed: int = 1_000_000
    """More at a time are answered with 429."""
    seconds: float = 0.0
    num_running: int = 0
    most_running: int = 0
    num_connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, request: dict[str, Any]) -> Fault | None:
        with self.lock:
            if self.num_running > self.most_allowed:
                return Fault(429)
            if self.faults:
                return self.faults.pop(0)
            return self.always or self.refuses(request)


class QuietServer(ThreadingHTTPServer):
    """Clients that are gone are what is being tested."""

    request_queue_size = 256

    def handle_error(self, *_: Any) -> None:
        """Quiet."""


def completion(text: str, **changes: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 3}
    return json.dumps({"choices": [choice | changes], "usage": usage}).encode()


@contextmanager
def misbehaving_endpoint() -> Iterator[Endpoint]:
    """A server that echoes what it is asked, unless its state says otherwise."""
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = IDLE_SECONDS
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with state.lock:
                state.num_connections += 1

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.requests.append(request)
                state.headers.append({k.lower(): v for k, v in self.headers.items()})
                state.paths.append(self.path)
                state.num_running += 1
                state.most_running = max(state.most_running, state.num_running)
            fault = state.next_fault(request)
            time.sleep(fault.seconds if fault else state.seconds)
            with state.lock:
                state.num_running -= 1
            if fault is None:
                self.send("echo " + request["messages"][-1]["content"])
            elif fault.is_hanging_up or fault.is_reset:
                self.hang_up(with_reset=fault.is_reset)
            else:
                self.misbehave(fault)

        def send(self, text: str) -> None:
            self.misbehave(Fault(body=completion(text)))

        def misbehave(self, fault: Fault) -> None:
            self.send_response(fault.status)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(fault.body)))
            self.end_headers()
            with suppress(ConnectionError):
                if fault.drip_seconds:
                    for byte in fault.body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(fault.drip_seconds)
                self.wfile.write(fault.body[: fault.bytes_sent])
            self.close_connection = fault.bytes_sent is not None

        def hang_up(self, *, with_reset: bool) -> None:
            if with_reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with serving(QuietServer(("127.0.0.1", 0), Handler)) as address:
        state.url = f"{address}/v1"
        yield state


def chat(text: str) -> Prompt:
    return Prompt.chat([{"role": "system", "content": "s"}, {"role": "user", "content": text}])
