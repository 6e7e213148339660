"""The bound of a prompt's cost, and what it decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.config import BudgetConfig, PriceConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt
from pipeline_lib.generation.budget import Budget, prompt_token_bound

PARAMS = GenerationParams(max_new_tokens=5)
PROMPT = Prompt.plain("p")
NO_PRICES = PriceConfig()


def test_without_a_limit_everything_may_be_sent() -> None:
    budget = Budget(BudgetConfig(), NO_PRICES)
    budget.spend(Completion("x", 10**9, 10**9, "stop"))
    assert budget.reach([PROMPT] * 3, PARAMS) == 3
    assert not budget.is_limited
    assert budget.spent_share == 0


def test_the_tighter_of_two_limits_counts() -> None:
    prices = PriceConfig(input_per_million=1, output_per_million=1)
    budget = Budget(BudgetConfig(max_tokens=1_000, max_cost=0.0002), prices)
    # 70 tokens at most for each: 200 millionths reach for two.
    assert budget.reach([PROMPT] * 5, PARAMS) == 2
    budget.spend(Completion("x", 40, 10, "stop"))
    assert budget.spent_share == pytest.approx(0.25)


def test_limiting_money_without_a_price_is_refused_because_it_would_do_nothing() -> None:
    with pytest.raises(ConfigError, match="cost nothing") as caught:
        Budget(BudgetConfig(max_cost=5), NO_PRICES)
    assert "teacher.prices" in (caught.value.hint or "")


@given(st.text(max_size=200))
def test_no_prompt_has_more_tokens_than_its_bound_in_a_vocabulary_of_bytes(text: str) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]
    # ChatML with bytes as tokens: marker, role, newline, content, marker, newline; and a marker,
    # 'assistant' and a newline at the end.
    num_tokens = 11
    for message in messages:
        num_tokens += 1 + len(message["role"]) + 1 + len(message["content"].encode()) + 2
    assert num_tokens <= prompt_token_bound(Prompt.chat(messages), PARAMS)


def test_a_schema_counts_as_part_of_the_prompt() -> None:
    params = GenerationParams(max_new_tokens=5, json_schema='{"type":"array"}')
    bound = prompt_token_bound(PROMPT, params)
    assert bound == prompt_token_bound(PROMPT, PARAMS) + len('{"type":"array"}')


def test_lone_surrogates_do_not_stop_the_counting() -> None:
    assert prompt_token_bound(Prompt.plain("\ud800"), PARAMS) == 64 + 3
