"""The endpoint client against a real HTTP server on loopback that can be told to misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline_lib.config import TeacherConfig
from pipeline_lib.errors import ConfigError, GenerationError, GenerationUnavailableError
from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.chat_client import RetryPolicy
from pipeline_lib.generation.endpoint import EndpointGenerator
from pipeline_lib.settings import Settings

KEY = "sk-very-secret-0123456789"
IDLE_SECONDS = 0.5
"""After which the server closes a connection on which nothing is asked."""
PARAMS = GenerationParams(max_new_tokens=16, seed=5, stop=("END",))


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


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
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

    server = QuietServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pauses() -> list[float]:
    """Seconds that the client would have slept."""
    return []


@pytest.fixture
def make(endpoint: Endpoint, pauses: list[float]) -> Iterator[Callable[..., EndpointGenerator]]:
    made: list[EndpointGenerator] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(min(seconds, 0.01))

    def build(
        url: str | None = None,
        key: str | None = KEY,
        api_version: str | None = None,
        max_attempts: int = 3,
        **config: Any,
    ) -> EndpointGenerator:
        settings = Settings(
            teacher_base_url=url or endpoint.url,
            teacher_api_key=SecretStr(key) if key else None,
            teacher_api_version=api_version,
        )
        generator = EndpointGenerator(
            settings,
            TeacherConfig(kind="endpoint", model="big-model", max_attempts=max_attempts, **config),
            retry=RetryPolicy(longest_pause_seconds=30),
            sleep=sleep,
            clock=lambda: 1_000_000.0,
        )
        made.append(generator)
        return generator

    yield build
    for generator in made:
        generator.close()


def chat(text: str) -> Prompt:
    return Prompt.chat([{"role": "system", "content": "s"}, {"role": "user", "content": text}])


def test_prompts_become_chat_completions_in_order(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    completions = make().generate([chat(str(n)) for n in range(20)], PARAMS)
    assert [c.text for c in completions] == [f"echo {n}" for n in range(20)]
    assert (completions[0].num_prompt_tokens, completions[0].num_completion_tokens) == (11, 3)
    assert completions[0].finish_reason == "stop"
    assert set(endpoint.paths) == {"/v1/chat/completions"}
    request = next(r for r in endpoint.requests if r["messages"][-1]["content"] == "7")
    assert request == {
        "model": "big-model",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "7"}],
        "max_tokens": 16,
        "temperature": 0.0,
        "seed": 5,
        "stop": ["END"],
    }


def test_the_key_travels_only_in_the_header_and_may_be_left_out(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    make().generate([chat("a")], PARAMS)
    make(key=None).generate([chat("b")], PARAMS)
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in endpoint.headers[1]


def test_requests_in_flight_are_bounded_and_used(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.seconds = 0.05
    make(concurrency=4).generate([chat(str(n)) for n in range(12)], PARAMS)
    assert endpoint.most_running == 4


def test_completions_are_reported_as_they_arrive_in_the_callers_thread(
    make: Callable[..., EndpointGenerator],
) -> None:
    seen: list[tuple[int, str, bool]] = []

    def listen(indices: Any, completions: Any) -> None:
        here = threading.current_thread() is threading.main_thread()
        seen.extend((i, c.text, here) for i, c in zip(indices, completions, strict=True))

    make().generate([chat(str(n)) for n in range(5)], PARAMS, on_completed=listen)
    assert sorted(seen) == [(n, f"echo {n}", True) for n in range(5)]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(
    endpoint: Endpoint,
    make: Callable[..., EndpointGenerator],
    pauses: list[float],
    status: int,
) -> None:
    endpoint.faults = [Fault(status), Fault(status)]
    [completion] = make().generate([chat("a")], PARAMS)
    assert completion.text == "echo a"
    assert 0.5 <= pauses[0] <= 1 <= pauses[1] <= 2


def test_a_lost_connection_is_tried_again(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.faults = [Fault(is_hanging_up=True)]
    assert make().generate([chat("a")], PARAMS)[0].text == "echo a"


def test_connections_are_kept_and_those_that_the_server_closed_are_not_used(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    generator = make(max_attempts=1, concurrency=1)
    generator.generate([chat(str(n)) for n in range(5)], PARAMS)
    assert endpoint.num_connections == 1
    time.sleep(2 * IDLE_SECONDS)
    generator.generate([chat("later")], PARAMS)
    assert endpoint.num_connections == 2


def test_a_request_that_takes_too_long_is_tried_again(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.faults = [Fault(seconds=1)]
    assert make(timeout_seconds=0.4).generate([chat("a")], PARAMS)[0].text == "echo a"
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("7", 7.0),
        ("0.25", 0.25),
        ("600", 30.0),
        (formatdate(1_000_012, usegmt=True), 12.0),
    ],
)
def test_the_server_says_how_long_to_wait(
    endpoint: Endpoint,
    make: Callable[..., EndpointGenerator],
    pauses: list[float],
    header: str,
    pause: float,
) -> None:
    endpoint.faults = [Fault(429, {"retry-after": header})]
    make().generate([chat("a")], PARAMS)
    assert pauses == [pause]


@pytest.mark.parametrize("header", ["soon", "0", "-3", formatdate(999_000, usegmt=True)])
def test_a_senseless_retry_after_is_ignored(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator], pauses: list[float], header: str
) -> None:
    endpoint.faults = [Fault(429, {"retry-after": header})]
    make().generate([chat("a")], PARAMS)
    assert 0.5 <= pauses[0] <= 1


def test_an_endpoint_that_stays_down_is_a_transient_error(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator], pauses: list[float]
) -> None:
    endpoint.always = Fault(503, body=b"overloaded")
    with pytest.raises(GenerationUnavailableError, match=r"3 attempts.*HTTP 503.*overloaded") as e:
        make().generate([chat("a")], PARAMS)
    assert e.value.is_transient
    assert len(pauses) == 2


def test_nobody_listening_is_a_transient_error_that_names_the_address(
    make: Callable[..., EndpointGenerator],
) -> None:
    with pytest.raises(GenerationUnavailableError, match=r"'big-model' at http://127.0.0.1:1/v1"):
        make(url="http://127.0.0.1:1/v1").generate([chat("a")], PARAMS)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_other_refusals_fail_at_once_naming_model_and_address(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator], pauses: list[float], status: int
) -> None:
    endpoint.always = Fault(status, body=b'{"error": "model not found"}')
    with pytest.raises(GenerationError, match=f"'big-model' at {endpoint.url}.*HTTP {status}") as e:
        make().generate([chat("a")], PARAMS)
    assert "model not found" in str(e.value)
    assert not e.value.is_transient
    assert pauses == []
    assert len(endpoint.requests) == 1


def test_the_key_is_in_no_message_even_if_the_server_echoes_it(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.always = Fault(401, body=f"bad key {KEY} given".encode())
    with pytest.raises(GenerationError, match=r"bad key \*\*\* given") as e:
        make().generate([chat("a")], PARAMS)
    assert KEY not in repr(e.value) + str(e.value)


def test_a_password_in_the_address_is_in_no_message(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.always = Fault(404)
    with pytest.raises(GenerationError) as e:
        make(url=endpoint.url.replace("://", "://user:hidden@")).generate([chat("a")], PARAMS)
    assert "hidden" not in str(e.value)


def test_what_arrived_before_a_failure_is_reported(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    reported: list[int] = []
    endpoint.faults = [Fault(body=completion("fine")), Fault(body=completion("fine")), Fault(400)]
    with pytest.raises(GenerationError):
        make(concurrency=1).generate(
            [chat(str(n)) for n in range(9)],
            PARAMS,
            on_completed=lambda indices, _: reported.extend(indices),
        )
    assert reported == [0, 1]
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": 3}]}']
)
def test_an_answer_that_is_no_completion_is_an_error(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator], body: bytes
) -> None:
    endpoint.always = Fault(body=body)
    with pytest.raises(GenerationError, match="did not answer with a chat completion"):
        make().generate([chat("a")], PARAMS)


def test_truncation_and_missing_counts_are_told(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    body = {"choices": [{"message": {"content": "cut"}, "finish_reason": "length"}], "usage": None}
    endpoint.always = Fault(body=json.dumps(body).encode())
    [completion] = make().generate([chat("a")], PARAMS)
    assert completion.finish_reason == "length"
    assert completion.num_completion_tokens == 0


def test_a_prompt_that_the_content_filter_refuses_does_not_end_the_run(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.always = Fault(400, body=b'{"error": {"code": "content_filter", "message": "no"}}')
    [completion] = make().generate([chat("a")], PARAMS)
    assert (completion.text, completion.finish_reason) == ("", "filter")


def test_plain_texts_and_forced_words_are_refused(make: Callable[..., EndpointGenerator]) -> None:
    for prompt in (Prompt.plain("a"), Prompt.chat([{"role": "user", "content": "a"}], "b")):
        with pytest.raises(GenerationError, match="chats only"):
            make().generate([prompt], PARAMS)


def test_an_endpoint_that_is_not_set_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="endpoint, but none is set") as e:
        EndpointGenerator(Settings(), TeacherConfig(kind="endpoint", model="m"))
    assert "RAFTLINE_TEACHER_BASE_URL" in str(e.value)


def test_the_proxy_of_the_environment_is_used_and_no_netrc(
    endpoint: Endpoint,
    make: Callable[..., EndpointGenerator],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine teacher.example login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", endpoint.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "other.example")
    assert make(url="http://teacher.example/v1").generate([chat("a")], PARAMS)
    assert endpoint.paths == ["http://teacher.example/v1/chat/completions"]
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"


def test_azure_is_told_the_version_and_gets_its_key_its_own_way(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    url = endpoint.url.removesuffix("/v1") + "/openai/deployments/gpt"
    make(url=url, api_version="2024-10-21").generate([chat("a")], PARAMS)
    assert endpoint.paths == ["/openai/deployments/gpt/chat/completions?api-version=2024-10-21"]
    assert endpoint.headers[0]["api-key"] == KEY
    assert "authorization" not in endpoint.headers[0]


def test_a_password_in_the_address_is_sent_when_there_is_no_key(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    url = endpoint.url.replace("://", "://user:p%40ss@")
    make(url=url, key=None).generate([chat("a")], PARAMS)
    assert endpoint.headers[0]["authorization"] == "Basic dXNlcjpwQHNz"  # user:p@ss
    assert "user" not in endpoint.headers[0]["host"]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://h:x/v1"])
def test_an_address_that_is_none_is_a_configuration_error(
    make: Callable[..., EndpointGenerator], url: str
) -> None:
    with pytest.raises(ConfigError, match="no valid address"):
        make(url=url)


def test_a_redirect_is_not_followed_so_that_the_key_stays_here(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.always = Fault(307, {"location": "http://127.0.0.1:1/elsewhere"})
    with pytest.raises(GenerationError, match="HTTP 307"):
        make().generate([chat("a")], PARAMS)
    assert len(endpoint.requests) == 1


FAULTS = {
    "throttled": Fault(429, {"retry-after": "0"}),
    "throttled without a word": Fault(429),
    "broken": Fault(500, body=b"oops"),
    "overloaded": Fault(529, body=b""),
    "hung up": Fault(is_hanging_up=True),
    "reset": Fault(is_reset=True),
    "half a body": Fault(body=completion("half"), bytes_sent=20),
    "cut JSON": Fault(body=completion("cut")[:-9]),
    "an error that says 200": Fault(body=b'{"error": {"message": "upstream", "code": 502}}'),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_what_may_pass_is_tried_again(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator], fault: Fault
) -> None:
    endpoint.faults = [fault, fault]
    [made] = make().generate([chat("a")], PARAMS)
    assert (made.text, made.finish_reason) == ("echo a", "stop")
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("body", [b"[]", b"<html>sorry</html>", b'{"choices": []}'])
def test_a_server_that_has_answered_before_may_be_confused_for_a_while(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator], body: bytes
) -> None:
    generator = make()
    generator.generate([chat("a")], PARAMS)
    fault = Fault(headers={"content-type": "text/html"}, body=body)
    endpoint.faults = [fault, fault]
    assert generator.generate([chat("b")], PARAMS)[0].text == "echo b"
    endpoint.always = fault
    with pytest.raises(GenerationUnavailableError, match="3 attempts"):
        generator.generate([chat("c")], PARAMS)


def test_a_web_page_instead_of_the_first_completion_is_the_wrong_address(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.always = Fault(headers={"content-type": "text/html"}, body=b"<html>hello</html>")
    with pytest.raises(GenerationError, match="did not answer with a chat completion"):
        make().generate([chat("a")], PARAMS)
    assert len(endpoint.requests) == 1


def test_half_a_character_in_a_prompt_is_no_obstacle(
    make: Callable[..., EndpointGenerator],
) -> None:
    assert make().generate([chat("half \ud83d é")], PARAMS)[0].text == "echo half \ufffd é"


def test_a_body_that_drips_is_given_up_after_the_time_limit(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    """Each read succeeds in time; all of them together do not."""
    endpoint.faults = [Fault(body=completion("slow"), drip_seconds=0.05)]
    started = time.monotonic()
    assert make(timeout_seconds=0.5).generate([chat("a")], PARAMS)[0].text == "echo a"
    assert time.monotonic() - started < 4


def test_every_prompt_is_answered_once_by_a_server_that_fails_in_every_way(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.faults = [*FAULTS.values()] * 6
    endpoint.most_allowed = 12
    reported: list[int] = []
    made = make(concurrency=16, max_attempts=50).generate(
        [chat(str(n)) for n in range(200)],
        PARAMS,
        on_completed=lambda indices, _: reported.extend(indices),
    )
    assert [c.text for c in made] == [f"echo {n}" for n in range(200)]
    assert sorted(reported) == list(range(200))
    assert endpoint.most_running <= 16


def test_fewer_requests_are_sent_to_a_server_that_throttles(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.seconds, endpoint.most_allowed = 0.01, 4
    generator = make(concurrency=64, max_attempts=50)
    generator.generate([chat(str(n)) for n in range(150)], PARAMS)
    assert generator.concurrency <= 8
    assert len(endpoint.requests) < 2 * 150


def test_more_requests_are_sent_to_a_server_that_takes_them(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.seconds = 0.1
    generator = make(concurrency=32)
    assert generator.concurrency == 8
    generator.generate([chat(str(n)) for n in range(150)], PARAMS)
    assert generator.concurrency >= 16
    assert 16 <= endpoint.most_running <= 32


def test_while_the_server_wants_to_be_left_alone_nothing_else_is_sent(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.faults = [Fault(429, {"retry-after": "0.3"})]
    arrivals: list[float] = []
    endpoint.refuses = lambda _: arrivals.append(time.monotonic())

    generator = EndpointGenerator(
        Settings(teacher_base_url=endpoint.url),
        TeacherConfig(kind="endpoint", model="m", concurrency=1),
    )
    started = time.monotonic()
    with generator:
        generator.generate([chat(str(n)) for n in range(3)], PARAMS)
    assert min(arrivals) - started >= 0.3
    assert [r["messages"][-1]["content"] for r in endpoint.requests] == ["0", "0", "1", "2"]


def test_ids_of_both_sides_are_in_the_error(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.always = Fault(500, {"x-request-id": "req_77"})
    with pytest.raises(GenerationUnavailableError) as e:
        make().generate([chat("a")], PARAMS)
    sent = [headers["x-request-id"] for headers in endpoint.headers]
    assert len(set(sent)) == 3
    assert f"(request {sent[-1]}, the server's id req_77)" in str(e.value)


def test_an_empty_account_is_told_at_once(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.always = Fault(429, body=b'{"error": {"code": "insufficient_quota", "message": "x"}}')
    with pytest.raises(GenerationError, match="no credit left") as e:
        make().generate([chat("a")], PARAMS)
    assert not e.value.is_transient
    assert len(endpoint.requests) == 1


def test_a_prompt_that_is_too_long_does_not_end_the_run(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    body = b'{"error": {"message": "maximum context length is 8192", "type": "BadRequestError"}}'

    def refuse(request: dict[str, Any]) -> Fault | None:
        return Fault(400, body=body) if request["messages"][-1]["content"] == "1" else None

    endpoint.refuses = refuse
    made = make().generate([chat(str(n)) for n in range(3)], PARAMS)
    assert [c.text for c in made] == ["echo 0", "", "echo 2"]
    assert made[1].finish_reason == "length"


@pytest.mark.parametrize("name", ["seed", "temperature", "stop"])
def test_a_parameter_that_the_server_refuses_is_left_out_from_then_on(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator], name: str
) -> None:
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    body = json.dumps({"error": {"message": message, "param": name}}).encode()
    endpoint.refuses = lambda request: Fault(400, body=body) if name in request else None
    generator = make(concurrency=1)
    made = generator.generate([chat(str(n)) for n in range(5)], PARAMS)
    assert [c.text for c in made] == [f"echo {n}" for n in range(5)]
    assert [name in request for request in endpoint.requests] == [True] + [False] * 5


def test_requests_in_flight_together_learn_together(
    endpoint: Endpoint,
    make: Callable[..., EndpointGenerator],
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = b'{"error": "unsupported max_tokens, use max_completion_tokens"}'
    endpoint.seconds = 0.05
    endpoint.refuses = lambda r: Fault(400, body=body) if "max_tokens" in r else None
    made = make(concurrency=8).generate([chat(str(n)) for n in range(8)], PARAMS)
    assert [c.text for c in made] == [f"echo {n}" for n in range(8)]
    assert sum(r.get("max_completion_tokens") == 16 for r in endpoint.requests) == 8
    assert sum("max_tokens" in r for r in endpoint.requests) <= 8
    [told] = [record.message for record in caplog.records]
    assert "max_completion_tokens instead of max_tokens" in told


def test_a_stop_mark_that_the_server_ignores_is_cut_here(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.always = Fault(body=completion("kept END dropped"))
    assert make().generate([chat("a")], PARAMS)[0].text == "kept "


SCHEMA = '{"items":{"type":"string"},"type":"array"}'


@pytest.mark.parametrize(
    ("taken", "sent"),
    [
        (["json_schema"], ["json_schema"]),
        (["json_object"], ["json_schema", "json_object"]),
        ([], ["json_schema", "json_object", None]),
    ],
)
def test_json_is_asked_for_in_the_strictest_form_that_the_server_takes(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator], taken: list[str], sent: list[str]
) -> None:
    def refuse(request: dict[str, Any]) -> Fault | None:
        if "response_format" not in request or request["response_format"]["type"] in taken:
            return None
        return Fault(
            400, body=b'{"error": {"message": "This response_format type is unavailable"}}'
        )

    endpoint.refuses = refuse
    generator = make()
    params = GenerationParams(max_new_tokens=16, json_schema=SCHEMA)
    generator.generate([chat("a")], params)
    generator.generate([chat("b")], params)
    formats = [request.get("response_format", {}).get("type") for request in endpoint.requests]
    assert formats == [*sent, sent[-1]]


def test_structured_output_can_be_switched_off(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    params = GenerationParams(max_new_tokens=16, json_schema=SCHEMA)
    make(structured_output="off").generate([chat("a")], params)
    assert "response_format" not in endpoint.requests[0]


def test_cached_tokens_and_seconds_are_counted(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    usage = {
        "prompt_tokens": 900,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 640},
    }
    body = {"choices": [{"message": {"content": "a"}}], "usage": usage}
    endpoint.always = Fault(body=json.dumps(body).encode(), seconds=0.05)
    [made] = make().generate([chat("a")], PARAMS)
    assert (made.num_prompt_tokens, made.num_cached_tokens) == (900, 640)
    assert 0.05 <= made.seconds < 2


def test_requests_in_flight_are_kept_when_another_fails_for_good(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    """They are paid for; those that wait to be repeated are not."""
    slow = Fault(body=completion("late"), seconds=0.3)

    def answer(request: dict[str, Any]) -> Fault:
        return {"0": slow, "1": Fault(404, seconds=0.1)}.get(
            request["messages"][-1]["content"], Fault(500)
        )

    endpoint.refuses = answer
    reported: dict[int, str] = {}
    with pytest.raises(GenerationError, match="HTTP 404"):
        make(concurrency=3, max_attempts=50).generate(
            [chat(str(n)) for n in range(9)],
            PARAMS,
            on_completed=lambda indices, made: reported.update(
                {i: c.text for i, c in zip(indices, made, strict=True)}
            ),
        )
    assert reported == {0: "late"}


def test_an_error_of_the_listener_ends_the_requests(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.seconds = 0.02

    def fail(*_: Any) -> None:
        raise KeyError("mine")

    generator = make(concurrency=2)
    with pytest.raises(KeyError, match="mine"):
        generator.generate([chat(str(n)) for n in range(500)], PARAMS, on_completed=fail)
    time.sleep(0.1)
    assert len(endpoint.requests) < 20
    endpoint.requests.clear()
    assert generator.generate([chat("again")], PARAMS)[0].text == "echo again"


def test_a_generator_that_was_closed_can_be_used_again(
    make: Callable[..., EndpointGenerator],
) -> None:
    generator = make()
    for text in ("a", "b"):
        with generator:
            assert generator.generate([chat(text)], PARAMS)[0].text == f"echo {text}"
    assert not [t for t in threading.enumerate() if t.name == "endpoint"]


def test_closing_ends_a_call_in_another_thread(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.seconds = 0.5
    generator = make()
    timer = threading.Timer(0.1, generator.close)
    timer.start()
    with pytest.raises(GenerationError, match="closed while"):
        generator.generate([chat("a")], PARAMS)
    timer.join()


def test_several_threads_share_the_limit(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.seconds = 0.02
    generator = make(concurrency=4)
    with ThreadPoolExecutor(3) as pool:
        made = list(
            pool.map(
                lambda name: generator.generate([chat(f"{name}{n}") for n in range(9)], PARAMS),
                "abc",
            )
        )
    assert [[c.text for c in part] for part in made] == [
        [f"echo {name}{n}" for n in range(9)] for name in "abc"
    ]
    assert endpoint.most_running <= 4


def test_no_prompts_need_no_server(make: Callable[..., EndpointGenerator]) -> None:
    assert make(url="http://127.0.0.1:1/v1").generate([], PARAMS) == []
