"""The endpoint client against a real HTTP server: what is sent, and how many at a time."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import TeacherConfig
from pipeline_lib.errors import ConfigError, GenerationError
from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.endpoint import EndpointGenerator
from pipeline_lib.settings import Settings
from tests.generation.made_endpoint import (
    IDLE_SECONDS,
    KEY,
    PARAMS,
    Endpoint,
    Fault,
    MakeClient,
    chat,
    completion,
)


def test_prompts_become_chat_completions_in_order(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    completions = make_client().generate([chat(str(n)) for n in range(20)], PARAMS)
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
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    make_client().generate([chat("a")], PARAMS)
    make_client(key=None).generate([chat("b")], PARAMS)
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in endpoint.headers[1]


def test_requests_in_flight_are_bounded_and_used(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.seconds = 0.05
    make_client(concurrency=4).generate([chat(str(n)) for n in range(12)], PARAMS)
    assert endpoint.most_running == 4


def test_completions_are_reported_as_they_arrive_in_the_callers_thread(
    make_client: MakeClient,
) -> None:
    seen: list[tuple[int, str, bool]] = []

    def listen(indices: Any, completions: Any) -> None:
        here = threading.current_thread() is threading.main_thread()
        seen.extend((i, c.text, here) for i, c in zip(indices, completions, strict=True))

    make_client().generate([chat(str(n)) for n in range(5)], PARAMS, on_completed=listen)
    assert sorted(seen) == [(n, f"echo {n}", True) for n in range(5)]


def test_connections_are_kept_and_those_that_the_server_closed_are_not_used(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    generator = make_client(max_attempts=1, concurrency=1)
    generator.generate([chat(str(n)) for n in range(5)], PARAMS)
    assert endpoint.num_connections == 1
    time.sleep(2 * IDLE_SECONDS)
    generator.generate([chat("later")], PARAMS)
    assert endpoint.num_connections == 2


def test_truncation_and_missing_counts_are_told(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    body = {"choices": [{"message": {"content": "cut"}, "finish_reason": "length"}], "usage": None}
    endpoint.always = Fault(body=json.dumps(body).encode())
    [completion] = make_client().generate([chat("a")], PARAMS)
    assert completion.finish_reason == "length"
    assert completion.num_completion_tokens == 0


def test_a_prompt_that_the_content_filter_refuses_does_not_end_the_run(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.always = Fault(400, body=b'{"error": {"code": "content_filter", "message": "no"}}')
    [completion] = make_client().generate([chat("a")], PARAMS)
    assert (completion.text, completion.finish_reason) == ("", "filter")


def test_plain_texts_and_forced_words_are_refused(make_client: MakeClient) -> None:
    for prompt in (Prompt.plain("a"), Prompt.chat([{"role": "user", "content": "a"}], "b")):
        with pytest.raises(GenerationError, match="chats only"):
            make_client().generate([prompt], PARAMS)


def test_an_endpoint_that_is_not_set_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="endpoint, but none is set") as e:
        EndpointGenerator(Settings(), TeacherConfig(kind="endpoint", model="m"))
    assert "RAFTLINE_TEACHER_BASE_URL" in str(e.value)


def test_the_proxy_of_the_environment_is_used_and_no_netrc(
    endpoint: Endpoint,
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine teacher.example login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", endpoint.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "other.example")
    assert make_client(url="http://teacher.example/v1").generate([chat("a")], PARAMS)
    assert endpoint.paths == ["http://teacher.example/v1/chat/completions"]
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"


def test_azure_is_told_the_version_and_gets_its_key_its_own_way(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    url = endpoint.url.removesuffix("/v1") + "/openai/deployments/gpt"
    make_client(url=url, api_version="2024-10-21").generate([chat("a")], PARAMS)
    assert endpoint.paths == ["/openai/deployments/gpt/chat/completions?api-version=2024-10-21"]
    assert endpoint.headers[0]["api-key"] == KEY
    assert "authorization" not in endpoint.headers[0]


def test_a_password_in_the_address_is_sent_when_there_is_no_key(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    url = endpoint.url.replace("://", "://user:p%40ss@")
    make_client(url=url, key=None).generate([chat("a")], PARAMS)
    assert endpoint.headers[0]["authorization"] == "Basic dXNlcjpwQHNz"  # user:p@ss
    assert "user" not in endpoint.headers[0]["host"]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://h:x/v1"])
def test_an_address_that_is_none_is_a_configuration_error(
    make_client: MakeClient, url: str
) -> None:
    with pytest.raises(ConfigError, match="no valid address"):
        make_client(url=url)


def test_half_a_character_in_a_prompt_is_no_obstacle(
    make_client: MakeClient,
) -> None:
    assert make_client().generate([chat("half \ud83d é")], PARAMS)[0].text == "echo half \ufffd é"


def test_more_requests_are_sent_to_a_server_that_takes_them(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.seconds = 0.1
    generator = make_client(concurrency=32)
    assert generator.concurrency == 8
    generator.generate([chat(str(n)) for n in range(150)], PARAMS)
    assert generator.concurrency >= 16
    assert 16 <= endpoint.most_running <= 32


def test_a_prompt_that_is_too_long_does_not_end_the_run(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    body = b'{"error": {"message": "maximum context length is 8192", "type": "BadRequestError"}}'

    def refuse(request: dict[str, Any]) -> Fault | None:
        return Fault(400, body=body) if request["messages"][-1]["content"] == "1" else None

    endpoint.refuses = refuse
    made = make_client().generate([chat(str(n)) for n in range(3)], PARAMS)
    assert [c.text for c in made] == ["echo 0", "", "echo 2"]
    assert made[1].finish_reason == "length"


@pytest.mark.parametrize("name", ["seed", "temperature", "stop"])
def test_a_parameter_that_the_server_refuses_is_left_out_from_then_on(
    endpoint: Endpoint, make_client: MakeClient, name: str
) -> None:
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    body = json.dumps({"error": {"message": message, "param": name}}).encode()
    endpoint.refuses = lambda request: Fault(400, body=body) if name in request else None
    generator = make_client(concurrency=1)
    made = generator.generate([chat(str(n)) for n in range(5)], PARAMS)
    assert [c.text for c in made] == [f"echo {n}" for n in range(5)]
    assert [name in request for request in endpoint.requests] == [True] + [False] * 5


def test_requests_in_flight_together_learn_together(
    endpoint: Endpoint,
    make_client: MakeClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = b'{"error": "unsupported max_tokens, use max_completion_tokens"}'
    endpoint.seconds = 0.05
    endpoint.refuses = lambda r: Fault(400, body=body) if "max_tokens" in r else None
    made = make_client(concurrency=8).generate([chat(str(n)) for n in range(8)], PARAMS)
    assert [c.text for c in made] == [f"echo {n}" for n in range(8)]
    assert sum(r.get("max_completion_tokens") == 16 for r in endpoint.requests) == 8
    assert sum("max_tokens" in r for r in endpoint.requests) <= 8
    [told] = [record.message for record in caplog.records]
    assert "max_completion_tokens instead of max_tokens" in told


def test_a_stop_mark_that_the_server_ignores_is_cut_here(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.always = Fault(body=completion("kept END dropped"))
    assert make_client().generate([chat("a")], PARAMS)[0].text == "kept "


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
    endpoint: Endpoint, make_client: MakeClient, taken: list[str], sent: list[str]
) -> None:
    def refuse(request: dict[str, Any]) -> Fault | None:
        if "response_format" not in request or request["response_format"]["type"] in taken:
            return None
        return Fault(
            400, body=b'{"error": {"message": "This response_format type is unavailable"}}'
        )

    endpoint.refuses = refuse
    generator = make_client()
    params = GenerationParams(max_new_tokens=16, json_schema=SCHEMA)
    generator.generate([chat("a")], params)
    generator.generate([chat("b")], params)
    formats = [request.get("response_format", {}).get("type") for request in endpoint.requests]
    assert formats == [*sent, sent[-1]]


def test_structured_output_can_be_switched_off(endpoint: Endpoint, make_client: MakeClient) -> None:
    params = GenerationParams(max_new_tokens=16, json_schema=SCHEMA)
    make_client(structured_output="off").generate([chat("a")], params)
    assert "response_format" not in endpoint.requests[0]


def test_cached_tokens_and_seconds_are_counted(endpoint: Endpoint, make_client: MakeClient) -> None:
    usage = {
        "prompt_tokens": 900,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 640},
    }
    body = {"choices": [{"message": {"content": "a"}}], "usage": usage}
    endpoint.always = Fault(body=json.dumps(body).encode(), seconds=0.05)
    [made] = make_client().generate([chat("a")], PARAMS)
    assert (made.num_prompt_tokens, made.num_cached_tokens) == (900, 640)
    assert 0.05 <= made.seconds < 2


def test_an_error_of_the_listener_ends_the_requests(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.seconds = 0.02

    def fail(*_: Any) -> None:
        raise KeyError("mine")

    generator = make_client(concurrency=2)
    with pytest.raises(KeyError, match="mine"):
        generator.generate([chat(str(n)) for n in range(500)], PARAMS, on_completed=fail)
    time.sleep(0.1)
    assert len(endpoint.requests) < 20
    endpoint.requests.clear()
    assert generator.generate([chat("again")], PARAMS)[0].text == "echo again"


def test_a_generator_that_was_closed_can_be_used_again(
    make_client: MakeClient,
) -> None:
    generator = make_client()
    for text in ("a", "b"):
        with generator:
            assert generator.generate([chat(text)], PARAMS)[0].text == f"echo {text}"
    assert not [t for t in threading.enumerate() if t.name == "endpoint"]


def test_closing_ends_a_call_in_another_thread(endpoint: Endpoint, make_client: MakeClient) -> None:
    endpoint.seconds = 0.5
    generator = make_client()
    timer = threading.Timer(0.1, generator.close)
    timer.start()
    with pytest.raises(GenerationError, match="closed while"):
        generator.generate([chat("a")], PARAMS)
    timer.join()


def test_several_threads_share_the_limit(endpoint: Endpoint, make_client: MakeClient) -> None:
    endpoint.seconds = 0.02
    generator = make_client(concurrency=4)
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


def test_no_prompts_need_no_server(make_client: MakeClient) -> None:
    assert make_client(url="http://127.0.0.1:1/v1").generate([], PARAMS) == []
