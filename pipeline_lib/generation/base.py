"""What a text generator is: prompts in, completions out, in the same order.

Synthesis, evaluation and serving see only this protocol, so an in-process model, an HTTP endpoint
and a scripted fake are interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

Message = Mapping[str, str]
"""One chat message: `role` (system, user or assistant) and `content`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat (`messages`) or a plain text to continue (`text`); exactly one of the two.

    Plain text never turns into control tokens, whatever it contains. The contents of messages go
    through the model's chat template, so corpus text in them must come from `raft.rendering`.
    """

    messages: tuple[tuple[str, str], ...] | None = None
    """(role, content) pairs."""
    text: str | None = None
    forced_prefix: str = ""
    """The first words of the output, fixed in advance; part of `Completion.text`."""

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.text is None):
            raise ValueError("a prompt is either chat messages or plain text, not both or neither")

    @classmethod
    def chat(cls, messages: Sequence[Message], forced_prefix: str = "") -> Prompt:
        """A chat that the model continues as the assistant."""
        pairs = tuple((message["role"], message["content"]) for message in messages)
        return cls(messages=pairs, forced_prefix=forced_prefix)

    @classmethod
    def plain(cls, text: str, forced_prefix: str = "") -> Prompt:
        """A text that the model continues."""
        return cls(text=text, forced_prefix=forced_prefix)

    def chat_messages(self) -> list[dict[str, str]]:
        """The messages as JSON-ready dictionaries; empty for a plain prompt."""
        return [{"role": role, "content": content} for role, content in self.messages or ()]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """How to decode."""

    max_new_tokens: int
    """Tokens after the prompt, the forced prefix included."""
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    """For sampling; a prompt's draw does not depend on its neighbours in a batch."""
    stop: tuple[str, ...] = ()
    """The output ends before the first of these; the forced prefix is not searched."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a generator wrote for one prompt."""

    text: str
    """Forced prefix included; stop string and end-of-turn token excluded."""
    num_prompt_tokens: int
    num_completion_tokens: int
    finish_reason: Literal["stop", "length"]


class Score(NamedTuple):
    """Negative log-likelihood (nats, summed) of a target, and its number of tokens."""

    sum_nll: float
    num_tokens: int


OnCompleted = Callable[[Sequence[int], Sequence[Completion]], None]
"""Called in the caller's thread as work gets done: indices into the prompts, their completions."""


class TextGenerator(Protocol):
    """Continues prompts."""

    @property
    def model_identity(self) -> str:
        """Identifies the model (name or content hash); equal identities give equal outputs."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        *,
        on_completed: OnCompleted | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order.

        Raises:
            GenerationError: the generator cannot serve the prompts.
        """


@runtime_checkable
class ScoringGenerator(TextGenerator, Protocol):
    """A generator that can also say how likely a given target is."""

    def score(
        self, prompts: Sequence[Prompt], targets: Sequence[str], *, with_end: bool = True
    ) -> list[Score]:
        """The score of each target as the continuation of its prompt.

        Args:
            prompts: one per target.
            targets: texts to score.
            with_end: whether the end-of-turn token after the target counts too.
        """
