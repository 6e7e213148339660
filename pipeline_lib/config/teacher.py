"""Who writes a dataset, and what that may cost."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import BUNDLED_LANGUAGE_MODEL, FrozenConfig, operational


class PriceConfig(FrozenConfig):
    """What a teacher's tokens cost; shown in ledgers and estimates, and what `max_cost` counts."""

    input_per_million: float = operational(
        0.0, ge=0, title="Price per million prompt tokens", description="In `currency`."
    )
    cached_input_per_million: float | None = operational(
        None,
        ge=0,
        title="Price per million cached prompt tokens",
        description="Of prompt tokens that the server reports as read from its cache; "
        "empty: the price of prompt tokens.",
    )
    output_per_million: float = operational(
        0.0, ge=0, title="Price per million completion tokens", description="In `currency`."
    )
    currency: str = operational("USD", title="Currency", description="Only shown.")


class TeacherConfig(FrozenConfig):
    """Who writes questions and answers."""

    kind: Literal["local", "endpoint"] = Field(
        "local",
        title="Kind",
        description="'local': a causal LM in process; 'endpoint': the OpenAI-compatible server "
        "in RAFTLINE_TEACHER_BASE_URL.",
    )
    model: str = Field(
        BUNDLED_LANGUAGE_MODEL,
        title="Model",
        description="'bundled:…', a hub id or local folder; for an endpoint, the name it serves.",
    )
    writer: Literal["auto", "extractive", "chat"] = Field(
        "auto",
        title="How it is asked",
        description="'chat': instructed to write questions and whole answers (from about 7B "
        "parameters); 'extractive': a small local model asks about single sentences and chooses "
        "among their clauses. 'auto': 'chat' for endpoints, 'extractive' for local models.",
    )
    temperature: float = Field(
        0.0,
        ge=0,
        le=2,
        title="Temperature",
        description="0 takes the likeliest words; higher values vary them.",
    )
    structured_output: Literal["auto", "off"] = Field(
        "auto",
        title="Structured output (endpoint)",
        description="'auto': ask for JSON by schema where a list or a verdict is wanted, and go "
        "on without where the server refuses; 'off': never ask.",
    )
    batch_size: int = operational(
        32,
        gt=0,
        title="Prompts per batch (local teacher)",
        description="More is faster and takes more memory; changes no result.",
    )
    concurrency: int = operational(
        32,
        gt=0,
        le=1024,
        title="Most requests in flight (endpoint)",
        description="Fewer are sent while the server is throttling or slows down.",
    )
    timeout_seconds: float = operational(
        120.0,
        gt=0,
        title="Time limit per request (seconds)",
        description="Of the endpoint; a request that takes longer is tried again.",
    )
    max_attempts: int = operational(
        6,
        gt=0,
        le=50,
        title="Attempts per request (endpoint)",
        description="A request that met 429, 5xx, a time-out or a lost connection is repeated "
        "after a growing pause, or after the time that the server asks for.",
    )
    prices: PriceConfig = operational(
        default=PriceConfig(), title="Prices", description="What its tokens cost."
    )

    @model_validator(mode="after")
    def _writer_can_be_had(self) -> Self:
        if self.kind == "endpoint" and self.writer == "extractive":
            raise ValueError(
                "an endpoint cannot write extractively: the likelihoods of given texts are not "
                "part of the OpenAI interface; use writer 'chat' or a local teacher"
            )
        return self

    @property
    def resolved_writer(self) -> Literal["extractive", "chat"]:
        """`writer` with 'auto' decided."""
        if self.writer != "auto":
            return self.writer
        return "chat" if self.kind == "endpoint" else "extractive"


class BudgetConfig(FrozenConfig):
    """Where synthesis stops, with what it has by then.

    What is counted is what the dataset's completions cost, those that were paid for by an earlier,
    interrupted run included; so the same budget gives the same dataset. Rows taken over from the
    dataset before cost nothing.
    """

    max_tokens: int | None = Field(
        None,
        gt=0,
        title="Most tokens",
        description="Prompt and completion tokens of the teacher together; empty: no limit.",
    )
    max_cost: float | None = Field(
        None,
        gt=0,
        title="Most money",
        description="By the teacher's prices, in their currency, prompt tokens in full even where "
        "the server had them cached; empty: no limit.",
    )
