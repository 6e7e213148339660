"""A teacher that answers by a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline_lib.generation.base import Completion, GenerationParams, OnCompleted, Prompt, Score


@dataclass
class ScriptedTeacher:
    """Answers prompts by a function, in batches, and remembers what it was asked."""

    script: Callable[[Prompt], str]
    scorer: Callable[[Prompt, str], float] = lambda _prompt, target: len(target) / 100
    model_identity: str = "scripted:1"
    batch_size: int = 8
    finish: Literal["stop", "length", "filter", "budget"] = "stop"
    prompt_tokens: int = 10
    """Of each prompt, unless `chars_per_token` says otherwise."""
    chars_per_token: int | None = None
    cached_tokens: int = 0
    seconds: float = 0.0
    """What each completion says that it took."""
    fail_after: int | None = None
    """Raises KeyboardInterrupt rather than deliver more completions than these."""
    asked: list[Prompt] = field(default_factory=list)
    scored: list[tuple[Prompt, str]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    """How many prompts each call of `generate` had."""
    params: list[GenerationParams] = field(default_factory=list)
    """With what each call of `generate` asked."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        *,
        on_completed: OnCompleted | None = None,
    ) -> list[Completion]:
        self.calls.append(len(prompts))
        self.params.append(params)
        results: list[Completion] = []
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            if self.fail_after is not None and len(self.asked) + len(batch) > self.fail_after:
                raise KeyboardInterrupt
            self.asked += batch
            done = [self.complete(prompt) for prompt in batch]
            results += done
            if on_completed is not None:
                on_completed(range(start, start + len(batch)), done)
        return results

    def complete(self, prompt: Prompt) -> Completion:
        """What it says to a prompt."""
        text = self.script(prompt)
        num_prompt = self.prompt_tokens
        if self.chars_per_token is not None:
            num_prompt = len(str(prompt)) // self.chars_per_token
        return Completion(
            text,
            num_prompt,
            len(text.split()),
            self.finish,
            num_cached_tokens=self.cached_tokens,
            seconds=self.seconds,
        )

    def score(
        self, prompts: Sequence[Prompt], targets: Sequence[str], *, with_end: bool = True
    ) -> list[Score]:
        assert not with_end
        pairs = list(zip(prompts, targets, strict=True))
        self.scored += pairs
        return [Score(self.scorer(p, t), max(1, len(t.split()))) for p, t in pairs]
