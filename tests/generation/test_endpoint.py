"""The endpoint client against a real HTTP server on loopback that can be told to misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline_lib.config import TeacherConfig
from pipeline_lib.errors import ConfigError, GenerationError, GenerationUnavailableError
from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.endpoint import EndpointGenerator, RetryPolicy
from pipeline_lib.settings import Settings

KEY = "sk-very-secret-0123456789"
PARAMS = GenerationParams(max_new_tokens=16, seed=5, stop=("END",))


@dataclass
class Fault:
    """What to answer instead of a completion."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": {"message": "no"}}'
    seconds: float = 0.0
    is_hanging_up: bool = False


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
    seconds: float = 0.0
    num_running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self) -> Fault | None:
        with self.lock:
            return self.faults.pop(0) if self.faults else self.always


def completion(text: str, **changes: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 3}
    return json.dumps({"choices": [choice | changes], "usage": usage}).encode()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.requests.append(request)
                state.headers.append({k.lower(): v for k, v in self.headers.items()})
                state.paths.append(self.path)
                state.num_running += 1
                state.most_running = max(state.most_running, state.num_running)
            fault = state.next_fault()
            time.sleep(fault.seconds if fault else state.seconds)
            with state.lock:
                state.num_running -= 1
            if fault is not None and fault.is_hanging_up:
                self.close_connection = True
                return
            text = "echo " + request["messages"][-1]["content"]
            body = completion(text) if fault is None else fault.body
            self.send_response(200 if fault is None else fault.status)
            for name, value in (fault.headers if fault else {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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

    def build(url: str | None = None, key: str | None = KEY, **config: Any) -> EndpointGenerator:
        settings = Settings(
            teacher_base_url=url or endpoint.url,
            teacher_api_key=SecretStr(key) if key else None,
        )
        generator = EndpointGenerator(
            settings,
            TeacherConfig(kind="endpoint", model="big-model", **config),
            retry=RetryPolicy(max_attempts=3, longest_pause_seconds=30),
            sleep=pauses.append,
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


def test_a_request_that_takes_too_long_is_tried_again(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator]
) -> None:
    endpoint.faults = [Fault(seconds=0.5)]
    assert make(timeout_seconds=0.15).generate([chat("a")], PARAMS)[0].text == "echo a"
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("7", 7.0),
        ("0.25", 0.25),
        ("600", 30.0),
        (formatdate(1_000_012, usegmt=True), 12.0),
        (formatdate(999_000, usegmt=True), 0.0),
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


def test_a_senseless_retry_after_is_ignored(
    endpoint: Endpoint, make: Callable[..., EndpointGenerator], pauses: list[float]
) -> None:
    endpoint.faults = [Fault(429, {"retry-after": "soon"})]
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
    assert completion.text == ""


def test_plain_texts_and_forced_words_are_refused(make: Callable[..., EndpointGenerator]) -> None:
    for prompt in (Prompt.plain("a"), Prompt.chat([{"role": "user", "content": "a"}], "b")):
        with pytest.raises(GenerationError, match="chats only"):
            make().generate([prompt], PARAMS)


def test_an_endpoint_that_is_not_set_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="endpoint, but none is set") as e:
        EndpointGenerator(Settings(), TeacherConfig(kind="endpoint", model="m"))
    assert "RAFTLINE_TEACHER_BASE_URL" in str(e.value)
