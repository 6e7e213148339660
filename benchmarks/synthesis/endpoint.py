"""Requests per second and own CPU time of the endpoint client, against other HTTP clients.

    python -m benchmarks.synthesis.endpoint [--latency 1] [--rounds 2] [--in-flight 1 16 64 256]

A scripted server of fixed latency in a process of its own; one chat of about 1,000 tokens in, 300
out; at each number in flight ours, aiohttp bare, and the openai package (left out when it is not
installed) in turn, as many requests as fill `--turns` latencies, after a warm-up that opens the
connections and lets our limit grow. Linear is in flight / latency. CPU is this process's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from pipeline_lib.config import TeacherConfig
from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.endpoint import EndpointGenerator
from pipeline_lib.settings import Settings

PASSAGE = "The quick brown fox jumps over the lazy dog, and nobody is surprised. " * 60
PARAMS = GenerationParams(max_new_tokens=400)
Arm = Callable[[int], None]


class FixedLatency(asyncio.Protocol):
    """Answers every request with the same completion after a fixed time."""

    latency = 1.0
    body = json.dumps(
        {
            "choices": [{"message": {"content": "word " * 300}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 300},
        }
    ).encode()

    def reply(self, _request: bytes) -> bytes:
        """What the body of the answer is."""
        return self.body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom to answer."""
        self.transport: Any = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Answer once the whole request is there."""
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(rest) >= length:
            self.received = b""
            body = self.reply(rest)
            answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            answer += f"content-length: {len(body)}\r\n\r\n".encode() + body
            loop = asyncio.get_running_loop()
            loop.call_later(self.latency, self.transport.write, answer)


def serve(latency: float, kind: type[FixedLatency], ready: Connection) -> None:
    """Run the server and tell its port."""
    kind.latency = latency

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(kind, "127.0.0.1", 0, backlog=2048)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def served(latency: float, kind: type[FixedLatency] = FixedLatency) -> Iterator[str]:
    """Base URL of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(latency, kind, there), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def messages(number: int) -> list[dict[str, str]]:
    """Every request differs, as it does in synthesis."""
    return [{"role": "user", "content": f"{number} {PASSAGE}"}]


@contextmanager
def raftline(url: str, in_flight: int) -> Iterator[Arm]:
    """Our client, as synthesis uses it."""
    teacher = TeacherConfig(kind="endpoint", model="m", concurrency=in_flight)
    with EndpointGenerator(Settings(teacher_base_url=url), teacher) as generator:

        def ask(count: int) -> None:
            generator.generate([Prompt.chat(messages(n)) for n in range(count)], PARAMS)

        yield ask


@contextmanager
def aiohttp_bare(url: str, in_flight: int) -> Iterator[Arm]:
    """Bare aiohttp and a JSON parser: what our client cannot go below."""
    import aiohttp

    with asyncio.Runner() as runner:

        async def opened() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

        session = runner.run(opened())

        async def one(number: int) -> None:
            payload = {"model": "m", "messages": messages(number), "max_tokens": 400}
            async with session.post(f"{url}/chat/completions", json=payload) as response:
                await response.json()

        yield lambda count: runner.run(drive(one, count, in_flight))
        runner.run(session.close())


@contextmanager
def openai_package(url: str, in_flight: int) -> Iterator[Arm]:
    """OpenAI's own client, which is built on httpx."""
    import openai

    with asyncio.Runner() as runner:
        client = openai.AsyncOpenAI(base_url=url, api_key="none")

        async def one(number: int) -> None:
            chat: Any = messages(number)
            await client.chat.completions.create(model="m", messages=chat, max_tokens=400)

        yield lambda count: runner.run(drive(one, count, in_flight))
        runner.run(client.close())


async def drive(one: Callable[[int], Awaitable[None]], count: int, in_flight: int) -> None:
    """`count` requests, `in_flight` at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(work() for _ in range(in_flight)))


def measure(ask: Arm, count: int) -> tuple[float, float]:
    """Requests per second, and milliseconds of CPU per request."""
    started, cpu = time.perf_counter(), time.process_time()
    ask(count)
    seconds = time.perf_counter() - started
    return count / seconds, 1000 * (time.process_time() - cpu) / count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=1.0, help="seconds")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--turns", type=int, default=4, help="requests per place in flight")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16, 64, 256])
    arguments = parser.parse_args()

    arms = {"raftline": raftline, "aiohttp": aiohttp_bare}
    if importlib.util.find_spec("openai"):
        arms["openai"] = openai_package
    print(f"{'in flight':>9}  {'linear':>8}  {'client':<9} {'per second':>10} {'CPU':>9}")
    with served(arguments.latency) as url:
        for in_flight in arguments.in_flight:
            found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
            for _ in range(arguments.rounds):
                for name, arm in arms.items():
                    with arm(url, in_flight) as ask:
                        ask(4 * in_flight)
                        found[name].append(measure(ask, arguments.turns * in_flight))
            for name, figures in found.items():
                rate, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
                linear = in_flight / arguments.latency
                print(
                    f"{in_flight:>9}  {linear:>8.0f}  {name:<9} {rate:>10.1f} {cpu:>6.2f} ms"
                    f"  {rate / linear:.0%} of linear",
                    flush=True,
                )


if __name__ == "__main__":
    main()
