"""What the answers of OpenAI-compatible servers mean."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest

from pipeline_lib.generation.replies import (
    NotACompletionError,
    Problem,
    Reply,
    asked_pause,
    completion_without_text,
    describe,
    is_passing,
    parse_completion,
    problem_of,
)


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(
        status=status, reason="X", headers=names, body=content, request_id="mine", seconds=0.5
    )


def text_of(message: dict[str, Any], **choice: Any) -> str:
    return parse_completion(reply({"choices": [{"message": message, **choice}]}), ()).text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>\nA long\nthought.\n</think>\n\nThe answer.", "The answer."),
        ("<think></think>The answer.", "The answer."),
        ("The template opened the thought.\n</think>\n\nThe answer.", "The answer."),
        ("<think>It never ends", ""),
        ("The tag </think> ends a thought.", "The tag </think> ends a thought."),
        ("<think>a</think>The tag </think> too", "The tag </think> too"),
        ("Plain <think> in the middle", "Plain <think> in the middle"),
        (None, ""),
        ([{"type": "thinking", "thinking": []}, {"type": "text", "text": "In parts"}], "In parts"),
        ("cut in half \ud83d", "cut in half \ufffd"),
    ],
)
def test_thoughts_are_left_out_of_the_text(content: Any, text: str) -> None:
    assert text_of({"content": content, "reasoning_content": "a thought of its own"}) == text


@pytest.mark.parametrize(
    ("message", "finish", "expected"),
    [
        ({"content": "a"}, "stop", "stop"),
        ({"content": "a"}, None, "stop"),
        ({"content": "a"}, "length", "length"),
        ({"content": "a"}, "content_filter", "filter"),
        ({"content": None, "refusal": "I cannot help with that"}, "stop", "filter"),
    ],
)
def test_why_the_text_ends(message: dict[str, Any], finish: str | None, expected: str) -> None:
    made = reply({"choices": [{"message": message, "finish_reason": finish}]})
    assert parse_completion(made, ()).finish_reason == expected


def test_the_first_of_several_stop_marks_ends_the_text() -> None:
    made = reply({"choices": [{"message": {"content": "one two three"}}]})
    assert parse_completion(made, ("three", "two", "")).text == "one "


@pytest.mark.parametrize(
    ("body", "is_garbled"),
    [
        (b'{"choices": [{"mess', True),
        (b"", True),
        (b"\xff\xfe\x00", True),
        (b"[]", False),
        (b'"text"', False),
        (b'{"choices": []}', False),
        (b'{"choices": [{"message": {"content": 3}}]}', False),
        (b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "x"}}', False),
    ],
)
def test_what_is_no_completion_is_told_from_what_is_garbled(body: bytes, is_garbled: bool) -> None:
    with pytest.raises(NotACompletionError) as e:
        parse_completion(reply(body), ())
    assert e.value.is_garbled == is_garbled


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"error": {"message": "m", "code": "c"}}, 400, "m"),
        ({"error": "m"}, 400, "m"),
        ({"detail": "m"}, 422, "m"),
        ([{"error": {"message": "m"}}], 400, "m"),
        (b"m", 500, "m"),
        ({"error": {"message": "m", "code": 429}}, 200, "m"),
        ({"error": "m"}, 200, "m"),
    ],
)
def test_errors_are_found_in_every_layout(body: Any, status: int, message: str) -> None:
    found = problem_of(reply(body, status))
    assert found is not None
    assert found.message == message


def test_an_error_inside_a_success_has_its_own_status() -> None:
    body = {"error": {"message": "slow down", "code": 429}}
    assert problem_of(reply(body)) == Problem(429, "slow down", "429", "")
    without = problem_of(reply({"error": {"message": "upstream"}}))
    assert without is not None
    assert is_passing(without)


def test_a_completion_about_errors_is_no_error() -> None:
    assert problem_of(reply({"choices": [{"message": {"content": '"error": 1'}}]})) is None
    assert problem_of(reply({"error": None, "choices": []})) is None


@pytest.mark.parametrize(
    ("status", "code", "message", "reason"),
    [
        (400, "content_filter", "The response was filtered", "filter"),
        (400, "", "triggering Azure OpenAI's content management policy", "filter"),
        (400, "context_length_exceeded", "", "length"),
        (400, "", "This model's maximum context length is 4096 tokens. However …", "length"),
        (413, "", "the request exceeds the available context size", "length"),
        (400, "", "'max_tokens' is too large: 9000. The maximum context length is 8192", "length"),
        (400, "", "unknown model", None),
        (500, "", "maximum context length", None),
    ],
)
def test_what_concerns_one_prompt_alone_is_told_apart(
    status: int, code: str, message: str, reason: str | None
) -> None:
    assert completion_without_text(Problem(status, message, code)) == reason


@pytest.mark.parametrize(
    ("status", "is_worth_it"),
    [(408, True), (429, True), (500, True), (501, False), (529, True), (400, False), (404, False)],
)
def test_which_statuses_may_pass(status: int, is_worth_it: bool) -> None:
    assert is_passing(Problem(status, "")) == is_worth_it


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "-7"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": formatdate(1_000_012, usegmt=True)}, 12.0),
        ({"retry-after": formatdate(999_000, usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Fri, 31 Dec 99999 23:59:59 GMT"}, None),
    ],
)
def test_the_pause_that_the_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_pause(headers, now=1_000_000.0) == seconds


def test_what_is_shown_of_a_reply_holds_both_ids_and_no_secret() -> None:
    made = reply(
        b"key sk-12345678 is\n\n wrong " + b"x" * 999, 401, x_request_id="req_1 sk-12345678"
    )
    shown = describe(made, ["sk-12345678"])
    assert shown.startswith("HTTP 401 X: key *** is wrong xxx")
    assert shown.endswith("(request mine, the server's id req_1 ***)")
    assert len(shown) < 400
