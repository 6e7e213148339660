"""Scanning and reading against a real object store.

One client serves the whole session, as making one takes long; the tests are kept apart by their
pipeline's name and by a folder for local copies.
"""

from __future__ import annotations

import ssl
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from pydantic import SecretStr

from deployments.stack.s3 import RcloneServer
from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.config import IngestConfig
from pipeline_lib.config.corpus import WebConfig
from pipeline_lib.corpus.sources.addresses import Resolve, resolve
from pipeline_lib.corpus.sources.base import SourceInput, SourceScan
from pipeline_lib.corpus.sources.fetching import Fetcher
from pipeline_lib.corpus.sources.locators import source_input_from_json, source_input_to_json
from pipeline_lib.corpus.sources.reading import InputReader
from pipeline_lib.corpus.sources.scan import scan_sources
from pipeline_lib.settings import Settings


@pytest.fixture(scope="session")
def store_settings(s3_server: RcloneServer) -> Settings:
    """Where the artifact store of all these tests is."""
    return Settings(
        s3_endpoint_url=s3_server.endpoint_url,
        s3_access_key_id=SecretStr(s3_server.access_key_id),
        s3_secret_access_key=SecretStr(s3_server.secret_access_key),
        s3_bucket=s3_server.bucket,
        s3_prefix=f"sources-{uuid.uuid4().hex[:12]}",
    )


@pytest.fixture(scope="session")
def objects(store_settings: Settings) -> ObjectStore:
    store = ObjectStore(store_settings)
    store.ensure_bucket()
    return store


@pytest.fixture
def here(store_settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a folder of their own."""
    return store_settings.model_copy(update={"home": tmp_path / "home"})


@pytest.fixture
def pipeline_name() -> str:
    return f"p-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def scan(here: Settings, objects: ObjectStore, pipeline_name: str) -> Callable[..., SourceScan]:
    """Scan sources; keyword arguments are fields of `IngestConfig`.

    In this process, as starting another takes long; the tests of isolation do that.
    """

    def run(
        *sources: object, fetcher: Fetcher | None = None, isolate: bool = False, **config: Any
    ) -> SourceScan:
        wanted = IngestConfig.model_validate({"sources": [str(s) for s in sources], **config})
        return scan_sources(here, objects, pipeline_name, wanted, fetcher=fetcher, isolate=isolate)

    return run


@pytest.fixture
def read(here: Settings, objects: ObjectStore) -> Callable[[SourceInput], bytes]:
    """Read an input as another process would: from its JSON."""

    def run(item: SourceInput) -> bytes:
        reader = InputReader(here, objects)
        try:
            return reader.read(source_input_from_json(source_input_to_json(item)))
        finally:
            reader.close()

    return run


@pytest.fixture
def read_elsewhere(
    store_settings: Settings, objects: ObjectStore, tmp_path: Path
) -> Callable[[SourceInput], bytes]:
    """Read an input on a machine that has no copies of anything."""

    def run(item: SourceInput) -> bytes:
        home = tmp_path / f"elsewhere-{uuid.uuid4().hex[:8]}"
        reader = InputReader(store_settings.model_copy(update={"home": home}), objects)
        try:
            return reader.read(item)
        finally:
            reader.close()

    return run


@pytest.fixture
def peak_memory() -> Callable[[], int]:
    """The most bytes that this process has held so far."""
    import resource

    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class Request:
    """What a client asked."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""


Body = bytes | Callable[[Callable[[bytes], object]], None]
"""The bytes, or what writes them piece by piece (then without a length)."""


@dataclass
class Answer:
    """What a server answers."""

    body: Body = b""
    status: int = 200
    headers: Mapping[str, str] | None = None


class WebServer:
    """A real HTTP server on a loopback address; a test writes down its answers by path."""

    Answer = Answer

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Answer | Callable[[Request], Answer]] = {}
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer((address, 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"http{'s' if tls else ''}://{address}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    def put(self, path: str, body: Body = b"", status: int = 200, **headers: str) -> str:
        """Answer a path; underscores in headers' names stand for hyphens. Gives the URL."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.routes[path] = Answer(body, status, named)
        return self.url + path

    def paths(self) -> list[str]:
        """What was asked for beside robots.txt, in order."""
        return [r.path for r in self.requests if r.path != "/robots.txt"]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.path, headers)
                outer.requests.append(request)
                route = outer.routes.get(self.path, Answer(b"gone", 404))
                answer = route(request) if callable(route) else route
                try:
                    self._send(answer)
                except OSError:
                    self.close_connection = True  # the client has seen enough

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in (answer.headers or {}).items():
                    self.send_header(name, value)
                if callable(answer.body):
                    self.end_headers()
                    answer.body(self.wfile.write)
                    return
                if answer.status != 304:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A server that only fetchers that may use private addresses reach."""
    with WebServer("127.0.0.1") as server:
        yield server


@pytest.fixture
def serve() -> type[WebServer]:
    """For servers at other addresses, or with TLS."""
    return WebServer


class FakeTime:
    """A clock that only goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def make_fetcher(fake_time: FakeTime) -> Callable[..., Fetcher]:
    """A fetcher that may use loopback and does not really wait; see `WebConfig`."""

    def make(
        resolve: Resolve = resolve, ssl_context: ssl.SSLContext | None = None, **config: Any
    ) -> Fetcher:
        return Fetcher(
            WebConfig(**{"allow_private_addresses": True, **config}),
            resolve=resolve,
            sleep=fake_time.sleep,
            clock=fake_time.clock,
            ssl_context=ssl_context,
        )

    return make
