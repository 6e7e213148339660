"""What a teacher's words come to: tokens, requests, seconds and money, for each step and model.

Everything that a dataset rests on is counted once, at the step that asked for it first, whether it
was written in this run or an earlier one had paid for it; what is new in this run is counted beside
it. Money is computed from sums of tokens, so it does not depend on the order of counting.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline_lib.config import PriceConfig
from pipeline_lib.generation.base import Completion, Score

_MILLION = 1_000_000
_MONEY_DIGITS = 6
_TIME_DIGITS = 3


@dataclass(kw_only=True)
class Usage:
    """Tokens that a server counts."""

    num_completions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, those that the server read from its cache."""
    completion_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, completion: Completion) -> None:
        """Count one completion."""
        self.num_completions += 1
        self.prompt_tokens += completion.num_prompt_tokens
        self.cached_tokens += completion.num_cached_tokens
        self.completion_tokens += completion.num_completion_tokens

    def cost(self, prices: PriceConfig) -> float:
        """Money, in the prices' currency."""
        cached_price = prices.cached_input_per_million
        if cached_price is None:
            cached_price = prices.input_per_million
        return (
            (self.prompt_tokens - self.cached_tokens) * prices.input_per_million
            + self.cached_tokens * cached_price
            + self.completion_tokens * prices.output_per_million
        ) / _MILLION


@dataclass(kw_only=True)
class LedgerLine:
    """What one step asked of one model."""

    step: str
    model: str
    total: Usage = field(default_factory=Usage)
    new: Usage = field(default_factory=Usage)
    """Of `total`, what was asked for in this run."""
    request_seconds: float = 0.0
    """Of all completions. Those of an endpoint, from sending to receiving, overlap; those of a
    model in process are shares of a batch's time, and do not."""
    num_scored_targets: int = 0
    num_new_scores: int = 0
    scored_tokens: int = 0
    """Of targets; a model in process scores them, which costs time only."""
    waiting_seconds: float = 0.0
    """Time this run waited for the model."""

    def as_record(self, prices: PriceConfig) -> dict[str, str | int | float]:
        """For a table or a file."""
        return {
            "step": self.step,
            "model": self.model,
            "num_completions": self.total.num_completions,
            "num_new_completions": self.new.num_completions,
            "prompt_tokens": self.total.prompt_tokens,
            "cached_tokens": self.total.cached_tokens,
            "completion_tokens": self.total.completion_tokens,
            "new_tokens": self.new.num_tokens,
            "num_scored_targets": self.num_scored_targets,
            "num_new_scores": self.num_new_scores,
            "scored_tokens": self.scored_tokens,
            "request_seconds": round(self.request_seconds, _TIME_DIGITS),
            "waiting_seconds": round(self.waiting_seconds, _TIME_DIGITS),
            "cost": round(self.total.cost(prices), _MONEY_DIGITS),
            "new_cost": round(self.new.cost(prices), _MONEY_DIGITS),
        }


class Ledger:
    """Lines by step and model, in the order in which steps began.

    Args:
        prices: of the tokens.
    """

    def __init__(self, prices: PriceConfig) -> None:
        self.prices = prices
        self._lines: dict[tuple[str, str], LedgerLine] = {}

    @property
    def lines(self) -> list[LedgerLine]:
        """One for each step and model."""
        return list(self._lines.values())

    def line(self, step: str, model: str) -> LedgerLine:
        """The line of a step, which begins it if there is none."""
        return self._lines.setdefault((step, model), LedgerLine(step=step, model=model))

    def count(self, step: str, model: str, result: Completion | Score, *, is_new: bool) -> None:
        """Count one result.

        Args:
            step: what asked for it.
            model: what wrote it.
            result: a completion or a score.
            is_new: whether it was asked for in this run.
        """
        line = self.line(step, model)
        if isinstance(result, Score):
            line.num_scored_targets += 1
            line.num_new_scores += is_new
            line.scored_tokens += result.num_tokens
            return
        line.total.add(result)
        line.request_seconds += result.seconds
        if is_new:
            line.new.add(result)

    def as_records(self) -> list[dict[str, str | int | float]]:
        """The lines as flat records."""
        return [line.as_record(self.prices) for line in self._lines.values()]

    def totals(self) -> dict[str, float]:
        """Over all steps, for a manifest.

        `num_reused` counts completions and scores that an earlier run had paid for, `cost` all of
        them, `new_cost` those of this run; `teacher_seconds` is the time this run waited.
        """
        records = self.as_records()

        def total(name: str) -> float:
            return float(sum(float(record[name]) for record in records))

        num_new = total("num_new_completions") + total("num_new_scores")
        return {
            "num_completions": total("num_completions"),
            "prompt_tokens": total("prompt_tokens"),
            "cached_tokens": total("cached_tokens"),
            "completion_tokens": total("completion_tokens"),
            "num_scored_targets": total("num_scored_targets"),
            "scored_tokens": total("scored_tokens"),
            "num_reused": total("num_completions") + total("num_scored_targets") - num_new,
            "teacher_seconds": round(total("waiting_seconds"), _TIME_DIGITS),
            "cost": round(total("cost"), _MONEY_DIGITS),
            "new_cost": round(total("new_cost"), _MONEY_DIGITS),
        }
