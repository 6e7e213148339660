"""Chat completions of an OpenAI-compatible server (vLLM, SGLang, Ollama, OpenAI, Azure, …).

Requests run in a bounded number of threads. What may pass (429, 5xx, time-outs, lost connections)
is tried again, after the time that the server asks for or else after a growing, jittered pause;
what will not (any other 4xx, an answer that is no completion) ends the call with an error that
names model and address, never the key.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from pipeline_lib.config import TeacherConfig
from pipeline_lib.errors import ConfigError, GenerationError, GenerationUnavailableError
from pipeline_lib.generation.base import Completion, GenerationParams, OnCompleted, Prompt
from pipeline_lib.settings import Settings

_RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_SHOWN_BODY_CHARS = 300


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long to try again."""

    max_attempts: int = 6
    first_pause_seconds: float = 1.0
    """Doubles with each attempt; the actual pause is drawn between half of it and all of it."""
    longest_pause_seconds: float = 60.0
    """Also the longest `Retry-After` that is waited for."""


class EndpointGenerator:
    """Generates with a chat model behind HTTP.

    Args:
        settings: address and key of the endpoint.
        config: the model's name, how many requests at a time, the time limit.
        retry: how often to try again.
        sleep: waits; replaced in tests.
        clock: seconds since the epoch; replaced in tests.

    Raises:
        ConfigError: no endpoint is set.
    """

    def __init__(
        self,
        settings: Settings,
        config: TeacherConfig,
        *,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not settings.teacher_base_url:
            raise ConfigError(
                f"The teacher {config.model!r} is an endpoint, but none is set",
                hint="Set RAFTLINE_TEACHER_BASE_URL, for example http://localhost:8000/v1, and "
                "RAFTLINE_TEACHER_API_KEY if the server wants a key.",
            )
        self._model = config.model
        self._concurrency = config.concurrency
        self._retry = retry or RetryPolicy()
        self._sleep = sleep
        self._clock = clock
        headers = {}
        if settings.teacher_api_key is not None:
            headers["Authorization"] = f"Bearer {settings.teacher_api_key.get_secret_value()}"
        self._client = httpx.Client(
            base_url=settings.teacher_base_url.rstrip("/") + "/",
            headers=headers,
            timeout=config.timeout_seconds,
            limits=httpx.Limits(max_connections=config.concurrency),
        )

    @property
    def model_identity(self) -> str:
        """The served model's name: where it is served does not matter, weights are not visible."""
        return endpoint_identity(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        *,
        on_completed: OnCompleted | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order; `on_completed` is called for each as it arrives.

        When a request fails for good, requests in flight are waited for and reported, then the
        error is raised.

        Raises:
            GenerationError: the endpoint refuses the request, or a prompt is not a chat.
            GenerationUnavailableError: it stayed out of reach or overloaded.
        """
        for prompt in prompts:
            if prompt.messages is None or prompt.forced_prefix:
                raise GenerationError(
                    f"{self._place} takes chats only, not plain texts or forced first words"
                )
        results: dict[int, Completion] = {}
        failure: BaseException | None = None
        waiting = list(enumerate(prompts))[::-1]
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="endpoint") as pool:
            running: dict[Future[Completion], int] = {}
            while running or (waiting and failure is None):
                while waiting and failure is None and len(running) < self._concurrency:
                    index, prompt = waiting.pop()
                    running[pool.submit(self._complete, prompt, params)] = index
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    error = future.exception()
                    if error is not None:
                        failure = failure or error
                        continue
                    results[index] = future.result()
                    if on_completed is not None:
                        on_completed([index], [results[index]])
        if failure is not None:
            raise failure
        return [results[index] for index in range(len(prompts))]

    @property
    def _place(self) -> str:
        url = self._client.base_url.copy_with(username=None, password=None, query=None)
        return f"The teacher {self._model!r} at {url}"

    def _complete(self, prompt: Prompt, params: GenerationParams) -> Completion:
        payload: dict[str, Any] = {
            "model": self._model,
            "messages": prompt.chat_messages(),
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "seed": params.seed,
        }
        if params.stop:
            payload["stop"] = list(params.stop)
        return self._parse(self._post(payload))

    def _post(self, payload: dict[str, Any]) -> httpx.Response:
        problem, cause = "", None
        for attempt in range(1, self._retry.max_attempts + 1):
            asked_for: float | None = None
            try:
                response = self._client.post("chat/completions", json=payload)
            except httpx.TransportError as error:
                problem, cause = f"{type(error).__name__}: {error}", error
            except httpx.InvalidURL as error:
                raise GenerationError(f"{self._place} has no valid address: {error}") from error
            else:
                if response.is_success:
                    return response
                problem, cause = self._describe(response), None
                if _is_filtered(response):
                    return response
                if response.status_code not in _RETRIED_STATUS:
                    raise GenerationError(
                        f"{self._place} refused the request: {problem}",
                        hint="Check the model's name, RAFTLINE_TEACHER_BASE_URL and "
                        "RAFTLINE_TEACHER_API_KEY.",
                    )
                asked_for = self._retry_after(response)
            if attempt < self._retry.max_attempts:
                self._sleep(self._pause(attempt, asked_for))
        raise GenerationUnavailableError(
            f"{self._place} did not answer in {self._retry.max_attempts} attempts; the last: "
            f"{problem}",
            hint="Is the server up, and is `concurrency` within what it takes? What has been "
            "generated so far is kept; run again to go on.",
        ) from cause

    def _pause(self, attempt: int, asked_for: float | None) -> float:
        longest = self._retry.longest_pause_seconds
        if asked_for is not None:
            return min(asked_for, longest)
        full: float = min(self._retry.first_pause_seconds * 2 ** (attempt - 1), longest)
        return full * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries, no secret)

    def _retry_after(self, response: httpx.Response) -> float | None:
        """Seconds from now, from either form of the header."""
        value = response.headers.get("retry-after", "").strip()
        if not value:
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - self._clock())
        except ValueError:
            return None

    def _describe(self, response: httpx.Response) -> str:
        """Status and the server's own words, without the key if it echoes it."""
        body = response.text
        authorization = self._client.headers.get("authorization", "")
        key = authorization.removeprefix("Bearer ")
        if key:
            body = body.replace(key, "***")
        body = " ".join(body.split())[:_SHOWN_BODY_CHARS]
        return f"HTTP {response.status_code} {response.reason_phrase}: {body}"

    def _parse(self, response: httpx.Response) -> Completion:
        if not response.is_success:
            return Completion("", 0, 0, "stop")
        try:
            body = response.json()
            choice = body["choices"][0]
            text = choice["message"]["content"] or ""
            usage = body.get("usage") or {}
            finish: Literal["stop", "length"] = (
                "length" if choice.get("finish_reason") == "length" else "stop"
            )
            return Completion(
                text=str(text),
                num_prompt_tokens=int(usage.get("prompt_tokens") or 0),
                num_completion_tokens=int(usage.get("completion_tokens") or 0),
                finish_reason=finish,
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise GenerationError(
                f"{self._place} did not answer with a chat completion: {self._describe(response)}",
                hint="RAFTLINE_TEACHER_BASE_URL should be the part before /chat/completions, "
                "often ending in /v1.",
            ) from error


def _is_filtered(response: httpx.Response) -> bool:
    """Whether a content filter refused this one prompt: an empty completion, not a failure."""
    return response.status_code == 400 and "content_filter" in response.text


def endpoint_identity(model: str) -> str:
    """The identity of a model behind an endpoint, known without asking it."""
    return f"endpoint:{model}"
