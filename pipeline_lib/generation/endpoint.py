"""Chat completions of an OpenAI-compatible server (vLLM, SGLang, Ollama, OpenAI, Azure, …).

Requests run in an event loop in a thread of its own, as many at a time as the server turns out to
take; completions come back to the caller's thread as they arrive. An event loop and aiohttp,
because own CPU per request decides how many requests one process keeps in flight:
`benchmarks/synthesis/endpoint.py` measures it against httpx and the openai package.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, Self

from pipeline_lib.config import TeacherConfig
from pipeline_lib.errors import GenerationError
from pipeline_lib.generation.address import Address
from pipeline_lib.generation.base import Completion, GenerationParams, OnCompleted, Prompt
from pipeline_lib.generation.chat_client import ChatClient, RetryPolicy, Sleep
from pipeline_lib.generation.concurrency import AdaptiveLimit, Slots
from pipeline_lib.settings import Settings

_Arrived = tuple[int, Completion]
_Arrivals = queue.SimpleQueue[list[_Arrived] | None]


class EndpointGenerator:
    """Generates with a chat model behind HTTP. May be used from several threads.

    Args:
        settings: address and key of the endpoint.
        config: the model's name, how many requests at a time, time limit, number of attempts.
        retry: how long to pause before trying again.
        sleep: waits between attempts; replaced in tests.
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
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._model = config.model
        self._concurrency = config.concurrency
        self._limit = AdaptiveLimit(config.concurrency)
        address = Address(settings, config.model)
        self._place = f"The teacher {config.model!r} at {address.shown}"
        self._client = ChatClient(
            address,
            config,
            Slots(self._limit),
            retry=retry or RetryPolicy(),
            sleep=sleep,
            clock=clock,
        )
        self._thread = _LoopThread()

    @property
    def model_identity(self) -> str:
        """The served model's name: where it is served does not matter, weights are not visible."""
        return endpoint_identity(self._model)

    @property
    def concurrency(self) -> int:
        """Requests that may be in flight now."""
        return self._limit.current

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
        """Give up what is in flight and let go of the connections."""
        self._thread.close(self._client.close)

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        *,
        on_completed: OnCompleted | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order; `on_completed` is called as they arrive.

        When a request fails for good, requests in flight are waited for and reported, then the
        error is raised. A prompt that the server finds too long has no text and `finish_reason`
        `length`; one that it does not want to answer, `filter`.

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
        with closing(self._arriving(prompts, params)) as batches:
            for batch in batches:
                results.update(batch)
                if on_completed is not None:
                    on_completed([index for index, _ in batch], [made for _, made in batch])
        return [results[index] for index in range(len(prompts))]

    def _arriving(
        self, prompts: Sequence[Prompt], params: GenerationParams
    ) -> Generator[list[_Arrived], None, None]:
        """Completions in the caller's thread, those that came in meanwhile together."""
        if not prompts:
            return
        arrived: _Arrivals = queue.SimpleQueue()
        done = self._thread.start(self._run(prompts, params, _Outbox(arrived)))
        done.add_done_callback(lambda _: arrived.put(None))
        try:
            while (batch := arrived.get()) is not None:
                yield batch
        finally:
            done.cancel()
        try:
            done.result()
        except CancelledError as error:
            raise GenerationError(f"{self._place} was closed while it was generating") from error

    async def _run(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        outbox: _Outbox,
    ) -> None:
        self._limit.new_work((params.max_new_tokens, params.stop, params.json_schema))
        crew = _Crew()
        remaining = iter(enumerate(prompts))

        async def work() -> None:
            for index, prompt in remaining:
                completion = await self._client.complete(prompt, params, waiting=crew.waiting)
                outbox.add((index, completion))

        try:
            await crew.run([work() for _ in range(min(self._concurrency, len(prompts)))])
        finally:
            outbox.flush()


class _Outbox:
    """Hands over in one go what arrives in one turn of the loop.

    Waking the other thread costs more than reading an answer does.
    """

    def __init__(self, arrived: _Arrivals) -> None:
        self._arrived = arrived
        self._batch: list[_Arrived] = []

    def add(self, item: _Arrived) -> None:
        """Hand it over at the end of this turn."""
        if not self._batch:
            asyncio.get_running_loop().call_soon(self.flush)
        self._batch.append(item)

    def flush(self) -> None:
        """Hand over now."""
        if self._batch:
            self._arrived.put(self._batch)
            self._batch = []


class _Crew:
    """Tasks that end together: after a failure, whoever has nothing on its way stops at once."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Task[None]] = set()
        self._is_ending = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the current task may be ended."""
        if self._is_ending:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only tasks can wait")
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)

    async def run(self, work: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Wait for all; raise the first failure once nothing is in flight any more."""
        tasks = [asyncio.create_task(part) for part in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            self._is_ending = True
            for task in tuple(self._waiting):
                task.cancel()
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [error for error in outcomes if isinstance(error, Exception)]
        if failures:
            raise failures[0]


class _LoopThread:
    """An event loop that runs in a thread from its first use until it is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        """Run a coroutine in the loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="endpoint", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """End everything in the loop, run `last` in it, and end the thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end(last), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last()


def endpoint_identity(model: str) -> str:
    """The identity of a model behind an endpoint, known without asking it."""
    return f"endpoint:{model}"
