"""What an OpenAI-compatible server's answers mean: a completion, a setback, or a refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

from pipeline_lib.generation.base import Completion
from pipeline_lib.generation.structured import well_formed

_PASSING_STATUS = frozenset({408, 409, 425, 429}) | (
    frozenset(range(500, 600)) - {501, 505}  # the server will not learn to do it
)
_OVERLOAD_STATUS = frozenset({408, 429, 503, 504, 529})
_GATEWAY_STATUS = 502
_FILTERED = re.compile(
    r"content[_ ]filter|content[_ ]policy|content management policy|responsibleaipolicy"
    r"|data_?inspection_?failed",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context_length_exceeded|(?:maximum|max) context length|context (?:window|size|length)"
    r"|(?:prompt|input) is too long|exceed\w* .{0,40}context|reduce the length of",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(r"insufficient_quota|insufficient[_ ](?:credit|balance)", re.IGNORECASE)
_SERVER_IDS = ("x-request-id", "apim-request-id", "x-ms-request-id", "request-id", "cf-ray")
_THOUGHTS = re.compile(r"\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)
_REST_OF_THOUGHTS = re.compile(r".*?</think>[ \t]*(?:\n\s*|\Z)", re.DOTALL)
_SHOWN_CHARS = 300
_LEAST_SECRET_CHARS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole HTTP answer."""

    status: int
    reason: str = ""
    headers: Mapping[str, str]
    """Looked up by lower-case names."""
    body: bytes
    request_id: str
    seconds: float


class Problem(NamedTuple):
    """An error as the server words it."""

    status: int
    """Of HTTP, or inside the body: some gateways pass errors on with HTTP 200."""
    message: str
    code: str = ""
    param: str = ""

    @property
    def words(self) -> str:
        """All that tells what kind of problem it is."""
        return f"{self.code} {self.message}"


class NotACompletionError(ValueError):
    """The body is not a chat completion.

    Args:
        is_garbled: it is not even JSON (cut off, mixed up), so that asking again may help.
    """

    def __init__(self, *, is_garbled: bool) -> None:
        super().__init__("not a chat completion")
        self.is_garbled = is_garbled


def problem_of(reply: Reply) -> Problem | None:
    """The error that a reply carries, in any of the known layouts; `None`: it carries none."""
    is_success = 200 <= reply.status < 300
    # Quotes inside a completion's text are escaped, so this spares most replies a second parse.
    if is_success and b'"error"' not in reply.body:
        return None
    try:
        body = json.loads(reply.body)
    except (ValueError, RecursionError):
        body = reply.body.decode("utf-8", "replace")
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    if error is None and is_success:
        return None
    status = _GATEWAY_STATUS if is_success else reply.status
    if error is None:
        error = body.get("detail", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return Problem(status, error if isinstance(error, str) else json.dumps(error))
    code = error.get("code")
    if is_success and isinstance(code, int) and 400 <= code < 600:
        status = code
    return Problem(
        status=status,
        message=_text(error.get("message")) or json.dumps(error),
        code=f"{_text(code)} {_text(error.get('type'))}".strip(),
        param=_text(error.get("param")),
    )


def is_passing(problem: Problem) -> bool:
    """Whether the same request may succeed later."""
    return problem.status in _PASSING_STATUS and not is_out_of_money(problem)


def is_overload(problem: Problem) -> bool:
    """Whether fewer requests at a time would have helped."""
    return problem.status in _OVERLOAD_STATUS


def is_out_of_money(problem: Problem) -> bool:
    """Whether the account is empty, which some servers say with 429."""
    return _NO_MONEY.search(problem.words) is not None


def completion_without_text(problem: Problem) -> Literal["filter", "length"] | None:
    """Why this one prompt gets no text while others may: it was filtered, or is too long."""
    if problem.status in (400, 403) and _FILTERED.search(problem.words):
        return "filter"
    if problem.status in (400, 413, 422) and _TOO_LONG.search(problem.words):
        return "length"
    return None


def asked_pause(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait from `now` (epoch), from either form of `Retry-After`, or in milliseconds."""
    milliseconds = _seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "").strip()
    seconds = _seconds(value)
    if seconds is not None or not value:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def describe(reply: Reply, secrets: Sequence[str]) -> str:
    """Status, the server's own words and both sides' request ids; secrets that it echoes masked."""
    body = " ".join(reply.body.decode("utf-8", "replace").split())
    ids = f"request {reply.request_id}"
    theirs = next((reply.headers[name] for name in _SERVER_IDS if reply.headers.get(name)), "")
    if theirs and theirs != reply.request_id:
        ids += f", the server's id {theirs[:100]}"
    text = f"HTTP {reply.status} {reply.reason}: {body}"
    for secret in secrets:
        if len(secret) >= _LEAST_SECRET_CHARS:
            text, ids = text.replace(secret, "***"), ids.replace(secret, "***")
    return f"{text[:_SHOWN_CHARS]} ({ids})"


def parse_completion(reply: Reply, stop: Sequence[str]) -> Completion:
    """The completion in a successful reply.

    A model's own thoughts (`<think>`, `reasoning_content`) are left out of the text; they stay in
    the count of tokens. The text ends before the first of `stop` even where the server ignores it.

    Raises:
        NotACompletionError: the body is something else.
    """
    try:
        body = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise NotACompletionError(is_garbled=True) from error
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text = _without_thoughts(_content(message))
        finish = _finish_reason(choice, message)
        usage = body.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        return Completion(
            text=well_formed(_until(text, stop)),
            num_prompt_tokens=int(usage.get("prompt_tokens") or 0),
            num_completion_tokens=int(usage.get("completion_tokens") or 0),
            finish_reason=finish,
            num_cached_tokens=int(cached or 0),
            seconds=reply.seconds,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise NotACompletionError(is_garbled=False) from error


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _seconds(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return max(0.0, number) if number < float("inf") else None


def _content(message: Mapping[str, Any]) -> str:
    """Text of a message, which some servers send in parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError("content is neither text nor parts")
    return content


def _without_thoughts(text: str) -> str:
    """The part after a `<think>` block, the start of which may be in the chat template instead.

    In the latter case the end must be the end of its line: an answer may quote the tag.
    """
    thoughts = _THOUGHTS.match(text) or _REST_OF_THOUGHTS.match(text)
    return text[thoughts.end() :] if thoughts else text


def _finish_reason(
    choice: Mapping[str, Any], message: Mapping[str, Any]
) -> Literal["stop", "length", "filter"]:
    reason = choice.get("finish_reason")
    if reason == "content_filter" or message.get("refusal"):
        return "filter"
    return "length" if reason in ("length", "model_length", "max_tokens") else "stop"


def _until(text: str, stop: Sequence[str]) -> str:
    ends = [at for at in (text.find(mark) for mark in stop if mark) if at >= 0]
    return text[: min(ends)] if ends else text
