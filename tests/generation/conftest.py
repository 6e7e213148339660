"""A scripted teacher, and a bucket in memory that can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline_lib.artifacts.object_store import ObjectInfo
from pipeline_lib.errors import ObjectNotFoundError, StoreUnavailableError
from pipeline_lib.generation.base import (
    Completion,
    GenerationParams,
    OnCompleted,
    Prompt,
    Score,
)
from pipeline_lib.generation.completion_store import CompletionStore


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


@dataclass
class ScriptedGenerator:
    """Answers by a function, in batches, and remembers what it was asked."""

    script: Callable[[Prompt], str] = lambda prompt: f"echo {prompt.text}"
    model_identity: str = "scripted:1"
    batch_size: int = 8
    prompt_tokens: int = 10
    cached_tokens: int = 0
    seconds: float = 0.5
    fail_after: int | None = None
    """Raises KeyboardInterrupt rather than deliver more completions than these."""
    asked: list[Prompt] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    """How many prompts each call of `generate` had."""
    scored: list[tuple[Prompt, str]] = field(default_factory=list)

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        *,
        on_completed: OnCompleted | None = None,
    ) -> list[Completion]:
        self.calls.append(len(prompts))
        results: list[Completion] = []
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            if self.fail_after is not None and len(self.asked) + len(batch) > self.fail_after:
                raise KeyboardInterrupt
            self.asked += batch
            done = [self._complete(prompt) for prompt in batch]
            results += done
            if on_completed is not None:
                on_completed(range(start, start + len(batch)), done)
        return results

    def score(
        self, prompts: Sequence[Prompt], targets: Sequence[str], *, with_end: bool = True
    ) -> list[Score]:
        assert not with_end
        self.scored += zip(prompts, targets, strict=True)
        return [Score(len(target) / 8, len(target.split())) for target in targets]

    def _complete(self, prompt: Prompt) -> Completion:
        text = self.script(prompt)
        return Completion(
            text,
            self.prompt_tokens,
            len(text.split()),
            "stop",
            num_cached_tokens=self.cached_tokens,
            seconds=self.seconds,
        )


@pytest.fixture
def scripted() -> type[ScriptedGenerator]:
    """A teacher that says `echo <prompt>`, or what its script says."""
    return ScriptedGenerator
