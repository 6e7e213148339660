"""What is learned from the words in which servers refuse requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.dialect import Dialect
from pipeline_lib.generation.replies import Problem, Reply, problem_of

PROMPT = Prompt.chat([{"role": "user", "content": "hello"}])
SCHEMA = {"type": "array", "items": {"type": "string"}}
PARAMS = GenerationParams(max_new_tokens=9, stop=("END",), json_schema=json.dumps(SCHEMA))


def problem(body: Any, status: int = 400) -> Problem:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = problem_of(Reply(status=status, headers={}, body=content, request_id="r", seconds=1))
    assert found is not None
    return found


def openai(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def learned(body: Any, status: int = 400) -> Dialect | None:
    sent = Dialect()
    names = sent.payload("m", PROMPT, PARAMS).keys()
    return sent.after(problem(body, status), sent, names)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            openai(
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "max_tokens",
                "unsupported_parameter",
            ),
            Dialect(tokens_name="max_completion_tokens"),
        ),
        (
            openai(
                "Unsupported value: 'temperature' does not support 0 with this model. Only the "
                "default (1) value is supported.",
                "temperature",
                "unsupported_value",
            ),
            Dialect(omitted=frozenset({"temperature"})),
        ),
        (openai("property 'seed' is unsupported"), Dialect(omitted=frozenset({"seed"}))),
        (
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "input": 0}]},
            Dialect(omitted=frozenset({"seed"})),
        ),
        (
            {"detail": "Unexpected fields in the request: {'seed'}"},
            Dialect(omitted=frozenset({"seed"})),
        ),
        (
            [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}],
            Dialect(omitted=frozenset({"seed"})),
        ),
        (
            openai("Unsupported parameter: 'stop' is not supported with this model.", "stop"),
            Dialect(omitted=frozenset({"stop"})),
        ),
        (
            openai("This response_format type is unavailable now"),
            Dialect(format_rank=1),
        ),
        (
            openai("Invalid schema for response_format 'output'", "response_format"),
            Dialect(format_rank=1),
        ),
        (openai("json schema conversion failed: unresolvable"), Dialect(format_rank=1)),
        (b"failed to parse grammar", Dialect(format_rank=1)),
    ],
)
def test_the_blamed_parameter_is_left_out_or_renamed(body: Any, expected: Dialect) -> None:
    assert learned(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        openai("temperature must be at most 1", "temperature"),
        openai("max_tokens must be positive", "max_tokens"),
        openai("The model `m` does not exist", None, "model_not_found"),
        openai("Unsupported role; the request will stop here"),
        openai("Unsupported parameter: 'top_k'", "top_k"),
        openai("Unsupported: logprobs together with seed", "logprobs"),
        b"",
        b"[]",
        b"<html>Bad Request</html>",
    ],
)
def test_other_refusals_teach_nothing(body: Any) -> None:
    assert learned(body) is None


def test_what_was_not_sent_is_not_to_blame() -> None:
    dialect = Dialect(omitted=frozenset({"seed"}))
    names = dialect.payload("m", PROMPT, PARAMS).keys()
    refusal = problem(openai("Unsupported parameter: 'seed'", "seed"))
    assert dialect.after(refusal, dialect, names) is None


def test_two_refusals_of_one_wording_teach_one_thing() -> None:
    """Both requests were in flight; the second must not skip the next form of JSON."""
    sent = Dialect()
    names = sent.payload("m", PROMPT, PARAMS).keys()
    refusal = problem(openai("response_format is not supported"))
    first = sent.after(refusal, sent, names)
    assert first is not None
    assert first.after(refusal, sent, names) == first == Dialect(format_rank=1)


@pytest.mark.parametrize(
    ("schema", "is_strict"),
    [
        (SCHEMA, True),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, False),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {}}},
                "required": ["b", "a"],
                "additionalProperties": False,
            },
            True,
        ),
        ({"type": "array", "items": {"anyOf": [{"type": "object"}]}}, False),
    ],
)
def test_only_closed_schemas_are_asked_for_strictly(schema: Any, is_strict: bool) -> None:
    """OpenAI refuses `strict` for others."""
    params = GenerationParams(max_new_tokens=9, json_schema=json.dumps(schema))
    asked = Dialect().payload("m", PROMPT, params)["response_format"]
    described = {"name": "output", "schema": schema, "strict": is_strict}
    assert asked == {"type": "json_schema", "json_schema": described}


def test_the_change_is_told_in_words() -> None:
    plain = Dialect()
    assert "max_completion_tokens instead of max_tokens" in Dialect(
        tokens_name="max_completion_tokens"
    ).difference(plain)
    assert "json_object instead of json_schema" in Dialect(format_rank=1).difference(plain)
    assert "not sent seed any" in Dialect(omitted=frozenset({"seed"})).difference(plain)
