"""A scripted teacher, a bucket in memory that can fail, and clients of a server that can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline_lib.artifacts.object_store import ObjectInfo
from pipeline_lib.config import TeacherConfig
from pipeline_lib.errors import ObjectNotFoundError, StoreUnavailableError
from pipeline_lib.generation.base import Prompt
from pipeline_lib.generation.chat_client import RetryPolicy
from pipeline_lib.generation.completion_store import CompletionStore
from pipeline_lib.generation.endpoint import EndpointGenerator
from pipeline_lib.settings import Settings
from tests.generation.made_endpoint import KEY, Endpoint, MakeClient, misbehaving_endpoint
from tests.generation.scripted import ScriptedTeacher


class MemoryObjects:
    """What completions need of an object store."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.num_writes = 0
        self.is_down = False
        self.on_get: Callable[[str], None] = lambda _key: None

    def uri(self, key: str) -> str:
        return f"s3://memory/{key}"

    def put_bytes(self, key: str, data: bytes) -> str:
        if self.is_down:
            raise StoreUnavailableError(f"Could not write {key}")
        self.num_writes += 1
        self.objects[key] = data
        return "etag"

    def get_bytes(self, key: str) -> bytes:
        self.on_get(key)
        if key not in self.objects:
            raise ObjectNotFoundError(f"There is no {key}")
        return self.objects[key]

    def scan(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for key, data in sorted(self.objects.items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(data), "etag")

    def delete(self, keys: Iterable[str]) -> None:
        if self.is_down:
            raise StoreUnavailableError("Could not delete")
        for key in keys:
            self.objects.pop(key, None)

    @property
    def segments(self) -> list[str]:
        """Keys of the segments that are there."""
        return sorted(key for key in self.objects if key.endswith(".jsonl.gz"))


@pytest.fixture
def bucket() -> MemoryObjects:
    """An empty bucket."""
    return MemoryObjects()


@pytest.fixture
def open_store(bucket: MemoryObjects, tmp_path: Path) -> Callable[..., CompletionStore]:
    """Opens the store of a model; one cache folder is one machine."""

    def open_(identity: str = "scripted:1", machine: str = "one") -> CompletionStore:
        return CompletionStore(bucket, tmp_path / machine, identity)  # type: ignore[arg-type]

    return open_


@pytest.fixture
def scripted() -> Callable[..., ScriptedTeacher]:
    """A teacher that takes half a second to say `echo <prompt>`, or what its script says."""

    def make(
        script: Callable[[Prompt], str] = lambda prompt: f"echo {prompt.text}", **fields: Any
    ) -> ScriptedTeacher:
        return ScriptedTeacher(script, **({"seconds": 0.5} | fields))

    return make


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A server on loopback that can be told to misbehave."""
    with misbehaving_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def pauses() -> list[float]:
    """Seconds that the client would have slept."""
    return []


@pytest.fixture
def make_client(endpoint: Endpoint, pauses: list[float]) -> Iterator[MakeClient]:
    """Its clients hold the key, try three times, and are closed at the end."""
    made: list[EndpointGenerator] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(min(seconds, 0.01))

    def build(
        url: str | None = None,
        key: str | None = KEY,
        api_version: str | None = None,
        max_attempts: int = 3,
        **config: Any,
    ) -> EndpointGenerator:
        settings = Settings(
            teacher_base_url=url or endpoint.url,
            teacher_api_key=SecretStr(key) if key else None,
            teacher_api_version=api_version,
        )
        generator = EndpointGenerator(
            settings,
            TeacherConfig(kind="endpoint", model="big-model", max_attempts=max_attempts, **config),
            retry=RetryPolicy(longest_pause_seconds=30),
            sleep=sleep,
            clock=lambda: 1_000_000.0,
        )
        made.append(generator)
        return generator

    yield build
    for generator in made:
        generator.close()
