"""Requests to the local server, against a real one that is busy."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deployments.stack.http import HttpError, request_json
from tests.http_serving import serving


class BusyServer(HTTPServer):
    """Answers with these statuses, one a request; then with 200."""

    statuses: list[int]
    bodies: list[bytes]


class Handler(BaseHTTPRequestHandler):
    server: BusyServer

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'{"done": true}' if status == 200 else b"busy")

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[BusyServer]:
    running = BusyServer(("127.0.0.1", 0), Handler)
    running.statuses, running.bodies = [], []
    with serving(running):
        yield running


def url(server: BusyServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


def test_a_busy_server_is_asked_again(server: BusyServer) -> None:
    server.statuses = [503, 503]
    assert request_json(url(server), {"a": 1}) == {"done": True}
    assert server.bodies == [b'{"a": 1}'] * 3


def test_patience_ends(server: BusyServer) -> None:
    server.statuses = [503] * 9
    with pytest.raises(HttpError, match="answered 503: busy") as caught:
        request_json(url(server), {}, patience_seconds=0)
    assert caught.value.status == 503
    assert len(server.bodies) == 1


def test_another_error_is_final(server: BusyServer) -> None:
    server.statuses = [500]
    with pytest.raises(HttpError, match="answered 500"):
        request_json(url(server), {})
    assert len(server.bodies) == 1
