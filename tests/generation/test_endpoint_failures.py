"""The endpoint client against a server that fails, throttles, or says no."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from pipeline_lib.config import TeacherConfig
from pipeline_lib.errors import GenerationError, GenerationUnavailableError
from pipeline_lib.generation.endpoint import EndpointGenerator
from pipeline_lib.settings import Settings
from tests.generation.made_endpoint import (
    KEY,
    PARAMS,
    Endpoint,
    Fault,
    MakeClient,
    chat,
    completion,
)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(
    endpoint: Endpoint,
    make_client: MakeClient,
    pauses: list[float],
    status: int,
) -> None:
    endpoint.faults = [Fault(status), Fault(status)]
    [completion] = make_client().generate([chat("a")], PARAMS)
    assert completion.text == "echo a"
    assert 0.5 <= pauses[0] <= 1 <= pauses[1] <= 2


def test_a_lost_connection_is_tried_again(endpoint: Endpoint, make_client: MakeClient) -> None:
    endpoint.faults = [Fault(is_hanging_up=True)]
    assert make_client().generate([chat("a")], PARAMS)[0].text == "echo a"


def test_a_request_that_takes_too_long_is_tried_again(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.faults = [Fault(seconds=1)]
    assert make_client(timeout_seconds=0.4).generate([chat("a")], PARAMS)[0].text == "echo a"
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
    make_client: MakeClient,
    pauses: list[float],
    header: str,
    pause: float,
) -> None:
    endpoint.faults = [Fault(429, {"retry-after": header})]
    make_client().generate([chat("a")], PARAMS)
    assert pauses == [pause]


@pytest.mark.parametrize("header", ["soon", "0", "-3", formatdate(999_000, usegmt=True)])
def test_a_senseless_retry_after_is_ignored(
    endpoint: Endpoint, make_client: MakeClient, pauses: list[float], header: str
) -> None:
    endpoint.faults = [Fault(429, {"retry-after": header})]
    make_client().generate([chat("a")], PARAMS)
    assert 0.5 <= pauses[0] <= 1


def test_an_endpoint_that_stays_down_is_a_transient_error(
    endpoint: Endpoint, make_client: MakeClient, pauses: list[float]
) -> None:
    endpoint.always = Fault(503, body=b"overloaded")
    with pytest.raises(GenerationUnavailableError, match=r"3 attempts.*HTTP 503.*overloaded") as e:
        make_client().generate([chat("a")], PARAMS)
    assert e.value.is_transient
    assert len(pauses) == 2


def test_nobody_listening_is_a_transient_error_that_names_the_address(
    make_client: MakeClient,
) -> None:
    with pytest.raises(GenerationUnavailableError, match=r"'big-model' at http://127.0.0.1:1/v1"):
        make_client(url="http://127.0.0.1:1/v1").generate([chat("a")], PARAMS)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_other_refusals_fail_at_once_naming_model_and_address(
    endpoint: Endpoint, make_client: MakeClient, pauses: list[float], status: int
) -> None:
    endpoint.always = Fault(status, body=b'{"error": "model not found"}')
    with pytest.raises(GenerationError, match=f"'big-model' at {endpoint.url}.*HTTP {status}") as e:
        make_client().generate([chat("a")], PARAMS)
    assert "model not found" in str(e.value)
    assert not e.value.is_transient
    assert pauses == []
    assert len(endpoint.requests) == 1


def test_the_key_is_in_no_message_even_if_the_server_echoes_it(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.always = Fault(401, body=f"bad key {KEY} given".encode())
    with pytest.raises(GenerationError, match=r"bad key \*\*\* given") as e:
        make_client().generate([chat("a")], PARAMS)
    assert KEY not in repr(e.value) + str(e.value)


def test_a_password_in_the_address_is_in_no_message(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.always = Fault(404)
    with pytest.raises(GenerationError) as e:
        make_client(url=endpoint.url.replace("://", "://user:hidden@")).generate(
            [chat("a")], PARAMS
        )
    assert "hidden" not in str(e.value)


def test_what_arrived_before_a_failure_is_reported(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    reported: list[int] = []
    endpoint.faults = [Fault(body=completion("fine")), Fault(body=completion("fine")), Fault(400)]
    with pytest.raises(GenerationError):
        make_client(concurrency=1).generate(
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
    endpoint: Endpoint, make_client: MakeClient, body: bytes
) -> None:
    endpoint.always = Fault(body=body)
    with pytest.raises(GenerationError, match="did not answer with a chat completion"):
        make_client().generate([chat("a")], PARAMS)


def test_a_redirect_is_not_followed_so_that_the_key_stays_here(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.always = Fault(307, {"location": "http://127.0.0.1:1/elsewhere"})
    with pytest.raises(GenerationError, match="HTTP 307"):
        make_client().generate([chat("a")], PARAMS)
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
    endpoint: Endpoint, make_client: MakeClient, fault: Fault
) -> None:
    endpoint.faults = [fault, fault]
    [made] = make_client().generate([chat("a")], PARAMS)
    assert (made.text, made.finish_reason) == ("echo a", "stop")
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("body", [b"[]", b"<html>sorry</html>", b'{"choices": []}'])
def test_a_server_that_has_answered_before_may_be_confused_for_a_while(
    endpoint: Endpoint, make_client: MakeClient, body: bytes
) -> None:
    generator = make_client()
    generator.generate([chat("a")], PARAMS)
    fault = Fault(headers={"content-type": "text/html"}, body=body)
    endpoint.faults = [fault, fault]
    assert generator.generate([chat("b")], PARAMS)[0].text == "echo b"
    endpoint.always = fault
    with pytest.raises(GenerationUnavailableError, match="3 attempts"):
        generator.generate([chat("c")], PARAMS)


def test_a_web_page_instead_of_the_first_completion_is_the_wrong_address(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.always = Fault(headers={"content-type": "text/html"}, body=b"<html>hello</html>")
    with pytest.raises(GenerationError, match="did not answer with a chat completion"):
        make_client().generate([chat("a")], PARAMS)
    assert len(endpoint.requests) == 1


def test_a_body_that_drips_is_given_up_after_the_time_limit(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    """Each read succeeds in time; all of them together do not."""
    endpoint.faults = [Fault(body=completion("slow"), drip_seconds=0.05)]
    started = time.monotonic()
    assert make_client(timeout_seconds=0.5).generate([chat("a")], PARAMS)[0].text == "echo a"
    assert time.monotonic() - started < 4


def test_every_prompt_is_answered_once_by_a_server_that_fails_in_every_way(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.faults = [*FAULTS.values()] * 6
    endpoint.most_allowed = 12
    reported: list[int] = []
    made = make_client(concurrency=16, max_attempts=50).generate(
        [chat(str(n)) for n in range(200)],
        PARAMS,
        on_completed=lambda indices, _: reported.extend(indices),
    )
    assert [c.text for c in made] == [f"echo {n}" for n in range(200)]
    assert sorted(reported) == list(range(200))
    assert endpoint.most_running <= 16


def test_fewer_requests_are_sent_to_a_server_that_throttles(
    endpoint: Endpoint, make_client: MakeClient
) -> None:
    endpoint.seconds, endpoint.most_allowed = 0.01, 4
    generator = make_client(concurrency=64, max_attempts=50)
    generator.generate([chat(str(n)) for n in range(150)], PARAMS)
    assert generator.concurrency <= 8
    assert len(endpoint.requests) < 2 * 150


def test_while_the_server_wants_to_be_left_alone_nothing_else_is_sent(
    endpoint: Endpoint, make_client: MakeClient
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


def test_ids_of_both_sides_are_in_the_error(endpoint: Endpoint, make_client: MakeClient) -> None:
    endpoint.always = Fault(500, {"x-request-id": "req_77"})
    with pytest.raises(GenerationUnavailableError) as e:
        make_client().generate([chat("a")], PARAMS)
    sent = [headers["x-request-id"] for headers in endpoint.headers]
    assert len(set(sent)) == 3
    assert f"(request {sent[-1]}, the server's id req_77)" in str(e.value)


def test_an_empty_account_is_told_at_once(endpoint: Endpoint, make_client: MakeClient) -> None:
    endpoint.always = Fault(429, body=b'{"error": {"code": "insufficient_quota", "message": "x"}}')
    with pytest.raises(GenerationError, match="no credit left") as e:
        make_client().generate([chat("a")], PARAMS)
    assert not e.value.is_transient
    assert len(endpoint.requests) == 1


def test_requests_in_flight_are_kept_when_another_fails_for_good(
    endpoint: Endpoint, make_client: MakeClient
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
        make_client(concurrency=3, max_attempts=50).generate(
            [chat(str(n)) for n in range(9)],
            PARAMS,
            on_completed=lambda indices, made: reported.update(
                {i: c.text for i, c in zip(indices, made, strict=True)}
            ),
        )
    assert reported == {0: "late"}
