"""One prompt to one completion over HTTP: wording, repeating, and telling why not.

Runs inside an event loop. What may pass (429, 5xx, time-outs, lost connections, garbled bodies) is
tried again, after the time that the server asks for or else after a growing, jittered pause; so is
an answer that is no completion, once the server has shown that it can give one. What concerns this
prompt alone (too long, filtered) becomes an empty completion that says so. What will not pass (any
other 4xx, no completion from the start) is an error that names model and address, never the key.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline_lib.config import TeacherConfig
from pipeline_lib.errors import GenerationError, GenerationUnavailableError
from pipeline_lib.generation.address import Address
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt
from pipeline_lib.generation.concurrency import Slot, Slots
from pipeline_lib.generation.dialect import Dialect
from pipeline_lib.generation.replies import (
    NotACompletionError,
    Problem,
    Reply,
    asked_pause,
    completion_without_text,
    describe,
    is_out_of_money,
    is_overload,
    is_passing,
    parse_completion,
    problem_of,
)

if TYPE_CHECKING:
    import aiohttp

_logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 30.0
_LARGEST_BODY_BYTES = 32 * 1024 * 1024
_ADDRESS_HINT = (
    "RAFTLINE_TEACHER_BASE_URL should be the part before /chat/completions, often ending in /v1."
)

Sleep = Callable[[float], Awaitable[None]]
Waiting = Callable[[], AbstractContextManager[None]]
"""Marks a stretch in which nothing of this prompt is on its way, so that it may be given up."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long to pause before trying again; how often is `TeacherConfig.max_attempts`."""

    first_pause_seconds: float = 1.0
    """Doubles with each attempt; the actual pause is drawn between half of it and all of it."""
    longest_pause_seconds: float = 60.0
    """Also the longest `Retry-After` that is waited for."""


@dataclass(frozen=True, kw_only=True)
class _Setback:
    """An attempt that failed in a way that may pass."""

    problem: str
    cause: BaseException | None = None
    asked_pause: float | None = None
    is_no_completion: bool = False


class ChatClient:
    """Asks one endpoint for completions.

    Args:
        address: of the endpoint.
        config: the model's name, time limit, number of attempts.
        slots: places in flight.
        retry: how long to pause between attempts.
        sleep: waits.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        address: Address,
        config: TeacherConfig,
        slots: Slots,
        *,
        retry: RetryPolicy,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address = address
        self._model = config.model
        self._timeout_seconds = config.timeout_seconds
        self._max_attempts = config.max_attempts
        self._slots = slots
        self._retry = retry
        self._sleep = sleep
        self._clock = clock
        no_format = Dialect.without_formats()
        self._dialect = Dialect() if config.structured_output == "auto" else no_format
        self._id = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._has_answered = False
        self._told_reasons: set[str] = set()
        self._session: aiohttp.ClientSession | None = None
        self._place = f"The teacher {config.model!r} at {address.shown}"

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def complete(
        self, prompt: Prompt, params: GenerationParams, *, waiting: Waiting = nullcontext
    ) -> Completion:
        """The completion of one chat.

        Raises:
            GenerationError: the endpoint refuses the request.
            GenerationUnavailableError: it stayed out of reach or overloaded.
        """
        attempt = 0
        while True:
            with waiting():
                slot = await self._slots.acquire(is_repeat=attempt > 0)
            try:
                outcome = await self._attempt(prompt, params, slot)
            finally:
                slot.release()
            if isinstance(outcome, Completion):
                return outcome
            attempt += 1
            if attempt >= self._max_attempts:
                raise self._given_up(outcome) from outcome.cause
            with waiting():
                await self._pause(attempt, outcome)

    async def _attempt(
        self, prompt: Prompt, params: GenerationParams, slot: Slot
    ) -> Completion | _Setback:
        """Send until the server understands the request, and judge what it says."""
        while True:
            dialect = self._dialect
            payload = dialect.payload(self._model, prompt, params)
            reply = await self._post(payload, slot)
            if isinstance(reply, _Setback):
                return reply
            problem = problem_of(reply)
            if problem is None:
                return self._parse(reply, params, slot)
            if self._has_learned(reply, problem, dialect, payload):
                continue
            return self._judge(reply, problem, slot)

    def _judge(self, reply: Reply, problem: Problem, slot: Slot) -> Completion | _Setback:
        told = describe(reply, self._address.secrets)
        reason = completion_without_text(problem)
        if reason is not None:
            level = logging.DEBUG if reason in self._told_reasons else logging.WARNING
            self._told_reasons.add(reason)
            _logger.log(level, "%s gave a prompt no text (%s): %s", self._place, reason, told)
            return Completion("", 0, 0, reason, seconds=reply.seconds)
        if is_passing(problem):
            if is_overload(problem):
                slot.pushed_back()
            pause = asked_pause(reply.headers, self._clock())
            return _Setback(problem=told, asked_pause=pause)
        raise GenerationError(
            f"{self._place} refused the request: {told}",
            hint="The account has no credit left; what has been generated so far is kept."
            if is_out_of_money(problem)
            else "Check the model's name, RAFTLINE_TEACHER_BASE_URL and RAFTLINE_TEACHER_API_KEY.",
        )

    def _parse(self, reply: Reply, params: GenerationParams, slot: Slot) -> Completion | _Setback:
        try:
            completion = parse_completion(reply, params.stop)
        except NotACompletionError as error:
            told = describe(reply, self._address.secrets)
            is_page = "html" in reply.headers.get("content-type", "")
            if self._has_answered or (error.is_garbled and not is_page):
                return _Setback(problem=told, cause=error, is_no_completion=True)
            raise self._no_completion(told) from error
        self._has_answered = True
        slot.served(seconds=reply.seconds, num_tokens=completion.num_completion_tokens)
        return completion

    def _has_learned(
        self, reply: Reply, problem: Problem, sent: Dialect, payload: dict[str, Any]
    ) -> bool:
        """Whether a refusal is explained by the wording, which has changed since it was sent."""
        if problem.status not in (400, 422) or completion_without_text(problem) is not None:
            return False
        known = self._dialect
        adapted = known.after(problem, sent, payload.keys())
        if adapted is None:
            return False
        if adapted != known:
            self._dialect = adapted
            told = describe(reply, self._address.secrets)
            _logger.warning(
                "%s: from now on %s; it said %s", self._place, adapted.difference(known), told
            )
        return adapted != sent

    async def _post(self, payload: dict[str, Any], slot: Slot) -> Reply | _Setback:
        import aiohttp

        # One id per attempt: some servers name their own work by it, and refuse one still at work.
        request_id = f"{self._id}-{next(self._numbers)}"
        body = json.dumps(payload).encode()
        started = time.perf_counter()
        try:
            async with self._opened().post(
                self._address.url,
                data=body,
                headers={"X-Request-ID": request_id},
                proxy=self._address.proxy,
                allow_redirects=False,
            ) as response:
                content = await _read(response)
                return Reply(
                    status=response.status,
                    reason=response.reason or "",
                    headers={name.lower(): value for name, value in response.headers.items()},
                    body=content,
                    request_id=request_id,
                    seconds=time.perf_counter() - started,
                )
        except TimeoutError as error:
            slot.pushed_back()
            problem = f"no answer within {self._timeout_seconds:g} seconds"
            return _Setback(problem=f"{problem} (request {request_id})", cause=error)
        except aiohttp.ClientConnectorCertificateError as error:
            raise GenerationError(
                f"{self._place} has a certificate that is not trusted here: {error}",
                hint="SSL_CERT_FILE may name a file with your own certificate authorities.",
            ) from error
        except aiohttp.ClientError as error:
            problem = f"{type(error).__name__}: {error} (request {request_id})"
            return _Setback(problem=problem, cause=error)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                # The slots bound the connections; a second queue would hide time from the clock.
                connector=aiohttp.TCPConnector(limit=0),
                headers={"Content-Type": "application/json", **self._address.headers},
                timeout=aiohttp.ClientTimeout(
                    total=self._timeout_seconds,
                    sock_connect=min(_CONNECT_SECONDS, self._timeout_seconds),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _pause(self, attempt: int, setback: _Setback) -> None:
        longest = self._retry.longest_pause_seconds
        # No pause at all is what a server says that does not know: it would spend all attempts.
        if setback.asked_pause:
            with self._slots.held():
                await self._sleep(min(setback.asked_pause, longest))
            return
        full = min(self._retry.first_pause_seconds * 2.0 ** (attempt - 1), longest)
        await self._sleep(full * random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries)

    def _given_up(self, last: _Setback) -> GenerationError:
        if last.is_no_completion and not self._has_answered:
            return self._no_completion(last.problem)
        return GenerationUnavailableError(
            f"{self._place} did not answer in {self._max_attempts} attempts; the last: "
            f"{last.problem}",
            hint="Is the server up, and is `concurrency` within what it takes? What has been "
            "generated so far is kept; run again to go on.",
        )

    def _no_completion(self, told: str) -> GenerationError:
        return GenerationError(
            f"{self._place} did not answer with a chat completion: {told}", hint=_ADDRESS_HINT
        )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, of a size that a completion can have.

    Raises:
        aiohttp.ClientPayloadError: it is larger, or ends too early.
    """
    import aiohttp

    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > _LARGEST_BODY_BYTES:
            raise aiohttp.ClientPayloadError(f"a body of more than {_LARGEST_BODY_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)
