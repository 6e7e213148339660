"""What one OpenAI-compatible server understands, learned from what it refuses.

Servers and models differ in the parameters they take: reasoning models want
`max_completion_tokens` and their own temperature, some servers refuse `seed` or unknown fields,
few follow a JSON schema and many only promise JSON. The first request says everything; a 400 or
422 that blames one of the dispensable parameters is remembered, and the request is sent again
without it or under the other name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.replies import Problem

_UNSUPPORTED = re.compile(
    r"unsupported|not (?:be )?(?:supported|permitted|allowed|available|accepted)"
    r"|n't support|not support|only the default|unavailable|deprecated|forbidden"
    r"|un(?:known|recognized|recognised|expected)|extra(?:neous)? |cannot find field",
    re.IGNORECASE,
)
_ABOUT_FORMAT = re.compile(
    r"response[_ ]format|json[_ ]?schema|json[_ ]?object|json mode|structured output|grammar"
    r"|guided",
    re.IGNORECASE,
)
_DISPENSABLE = ("seed", "temperature", "stop")
_FORMATS = ("json_schema", "json_object", "none")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a request is worded."""

    tokens_name: str = "max_tokens"
    omitted: frozenset[str] = frozenset()
    format_rank: int = 0
    """Place in: JSON by schema, any JSON, free text."""

    @classmethod
    def without_formats(cls) -> Dialect:
        """The dialect that never asks for JSON."""
        return cls(format_rank=_FORMATS.index("none"))

    def payload(self, model: str, prompt: Prompt, params: GenerationParams) -> dict[str, Any]:
        """The body of a chat completion request."""
        payload: dict[str, Any] = {
            "model": model,
            "messages": prompt.chat_messages(),
            self.tokens_name: params.max_new_tokens,
            "temperature": params.temperature,
            "seed": params.seed,
        }
        if params.stop:
            payload["stop"] = list(params.stop)
        if params.json_schema and _FORMATS[self.format_rank] != "none":
            payload["response_format"] = self._response_format(params.json_schema)
        for name in self.omitted:
            payload.pop(name, None)
        return payload

    def after(self, problem: Problem, sent: Dialect, names: Collection[str]) -> Dialect | None:
        """The dialect that takes account of a refusal.

        Args:
            problem: what the server said.
            sent: the dialect of the refused request; requests in flight together are refused
                together, and only the first of them has something new to teach.
            names: the parameters of the refused request.

        Returns:
            `None` when no dispensable parameter is to blame.
        """
        if "response_format" in names and (
            problem.param.startswith("response_format") or _ABOUT_FORMAT.search(problem.words)
        ):
            return replace(self, format_rank=max(self.format_rank, sent.format_rank + 1))
        if not _UNSUPPORTED.search(problem.words):
            return None
        if "max_tokens" in names and _names("max_tokens", problem):
            return replace(self, tokens_name="max_completion_tokens")
        for name in _DISPENSABLE:
            if name in names and _names(name, problem):
                return replace(self, omitted=self.omitted | {name})
        return None

    def difference(self, before: Dialect) -> str:
        """What changed, for the log."""
        if self.tokens_name != before.tokens_name:
            return f"it is sent {self.tokens_name} instead of {before.tokens_name}"
        if self.format_rank != before.format_rank:
            now = _FORMATS[self.format_rank]
            return (
                f"it is asked for response_format {now} instead of {_FORMATS[before.format_rank]}"
            )
        return f"it is not sent {', '.join(sorted(self.omitted - before.omitted))} any more"

    def _response_format(self, schema_text: str) -> dict[str, Any]:
        name = _FORMATS[self.format_rank]
        if name == "json_object":
            return {"type": name}
        schema = json.loads(schema_text)
        described = {"name": "output", "schema": schema, "strict": _can_be_strict(schema)}
        return {"type": name, name: described}


def _names(parameter: str, problem: Problem) -> bool:
    """Whether the server's words are about this parameter."""
    if problem.param:
        return problem.param == parameter
    # In prose, `stop` must be marked as a name; the others are no ordinary words.
    pattern = rf"['\"`\[]{parameter}['\"`\]]" if parameter == "stop" else rf"\b{parameter}\b"
    return re.search(pattern, problem.message) is not None


def _can_be_strict(schema: Any) -> bool:
    """Whether OpenAI takes the schema as strict: every object closed, all of it required."""
    if isinstance(schema, list):
        return all(_can_be_strict(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        is_closed = schema.get("additionalProperties") is False
        if not is_closed or set(schema.get("required", ())) != set(schema.get("properties", ())):
            return False
    return all(_can_be_strict(part) for part in schema.values())
