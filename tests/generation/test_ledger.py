"""What the words cost."""

from __future__ import annotations

import pytest

from pipeline_lib.config import PriceConfig
from pipeline_lib.generation.base import Completion, Score
from pipeline_lib.generation.ledger import Ledger

PRICES = PriceConfig(input_per_million=2, cached_input_per_million=0.5, output_per_million=10)
COMPLETION = Completion("x", 1_000, 100, "stop", num_cached_tokens=400, seconds=1.5)


def test_money_is_fresh_cached_and_written_tokens_by_their_prices() -> None:
    ledger = Ledger(PRICES)
    ledger.count("asking", "m", COMPLETION, is_new=True)
    # 600 x 2 + 400 x 0.5 + 100 x 10 millionths
    assert ledger.totals()["cost"] == pytest.approx(0.0024)


def test_cached_tokens_cost_what_prompt_tokens_do_where_no_price_is_set() -> None:
    ledger = Ledger(PriceConfig(input_per_million=2, output_per_million=10))
    ledger.count("asking", "m", COMPLETION, is_new=True)
    assert ledger.totals()["cost"] == pytest.approx(0.003)


def test_each_step_and_model_has_a_line() -> None:
    ledger = Ledger(PRICES)
    ledger.count("asking", "m", COMPLETION, is_new=True)
    ledger.count("asking", "m", COMPLETION, is_new=False)
    ledger.count("judging", "other", COMPLETION, is_new=True)
    ledger.count("scoring", "m", Score(2.5, 7), is_new=True)
    ledger.line("asking", "m").waiting_seconds += 2.25
    asking, judging, scoring = ledger.as_records()
    assert asking == {
        "step": "asking",
        "model": "m",
        "num_completions": 2,
        "num_new_completions": 1,
        "prompt_tokens": 2_000,
        "cached_tokens": 800,
        "completion_tokens": 200,
        "new_tokens": 1_100,
        "num_scored_targets": 0,
        "num_new_scores": 0,
        "scored_tokens": 0,
        "request_seconds": 3.0,
        "waiting_seconds": 2.25,
        "cost": 0.0048,
        "new_cost": 0.0024,
    }
    assert (judging["step"], judging["model"]) == ("judging", "other")
    assert (scoring["num_scored_targets"], scoring["scored_tokens"]) == (1, 7)
    assert ledger.totals() == {
        "num_completions": 3.0,
        "prompt_tokens": 3_000.0,
        "cached_tokens": 1_200.0,
        "completion_tokens": 300.0,
        "num_scored_targets": 1.0,
        "scored_tokens": 7.0,
        "num_reused": 1.0,
        "teacher_seconds": 2.25,
        "cost": 0.0072,
        "new_cost": 0.0048,
    }
