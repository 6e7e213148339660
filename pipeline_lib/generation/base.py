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
    json_schema: str = ""
    """JSON Schema (as canonical JSON text) that the output should follow where the generator can
    make it; the reader must survive one that cannot."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a generator wrote for one prompt."""

    text: str
    """Forced prefix included; stop string and end-of-turn token excluded."""
    num_prompt_tokens: int
    num_completion_tokens: int
    finish_reason: Literal["stop", "length", "filter", "budget"]
    """`filter`: a content filter refused the prompt or cut the output. `budget`: it was never
    asked for, because the budget is spent; the text is empty."""
    num_cached_tokens: int = 0
    """Of the prompt's tokens, those that the server reports as read from its cache."""
    seconds: float = 0.0
    """From sending to receiving; 0 when unknown."""


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


class MeteredGenerator(Protocol):
    """What synthesis sees of a teacher: every word kept, counted and within the budget."""

    @property
    def model_identity(self) -> str:
        """The teacher's."""

    @property
    def is_exhausted(self) -> bool:
        """Whether the budget is spent, so that nothing more is asked."""

    @property
    def spent_share(self) -> float:
        """How much of the budget is spent, from 0 to 1; 0 where there is none."""

    def generate(
        self, prompts: Sequence[Prompt], params: GenerationParams, *, step: str
    ) -> list[Completion]:
        """One completion per prompt, in order; equal prompts are asked once.

        Where the budget does not reach, a completion has `finish_reason` `budget`.

        Args:
            prompts: what to continue.
            params: how; part of the key under which completions are kept.
            step: what is being done, for the ledger and the progress: `asking`, `answering`, ….
        """

    def score(self, prompts: Sequence[Prompt], targets: Sequence[str], *, step: str) -> list[Score]:
        """The score of each target after its prompt, without an end-of-turn token.

        Raises:
            ConfigError: the teacher cannot score.
        """
