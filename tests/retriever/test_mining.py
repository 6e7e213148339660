"""Hard negatives: hard, and never right answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline_lib.config import MiningConfig
from pipeline_lib.retriever.mining import FalseNegativeGuard, Miner
from pipeline_lib.retriever.pairs import Pair, Passages

MakePair = Callable[..., Pair]
MakePassages = Callable[..., Passages]

POSITIVE = "The kettle boils water at one hundred degrees, which takes the kettle three minutes."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (POSITIVE.replace(" ", "\n"), "same_text"),
        (POSITIVE + " It then turns itself off.", "near_duplicate"),
        ("Every pot needs three   Minutes, they say.", "contains_answer"),
        ("Tea wants water at one hundred degrees.", "contains_quote"),
        ("Two minutes of patience are enough for tea.", None),
    ],
)
def test_what_may_answer_the_question_is_no_negative(
    make_pair: MakePair, text: str, reason: str | None
) -> None:
    pair = make_pair(answer="three minutes", quotes=("water at one hundred degrees",))
    assert FalseNegativeGuard(pair, POSITIVE, MiningConfig()).danger(text) == reason


def test_a_bare_no_is_not_looked_for_in_passages(make_pair: MakePair) -> None:
    """It stands in almost every text; without this rule nothing would be left."""
    guard = FalseNegativeGuard(make_pair(answer="No."), POSITIVE, MiningConfig())
    assert guard.danger("There is no better way to make coffee.") is None


def mine(
    passages: Passages,
    pair: Pair,
    scores: list[float],
    *,
    held_out: tuple[str, ...] = (),
    seed: int = 0,
    **settings: Any,
) -> Any:
    """Mining for one question that scores passage n as `scores[n]`, all found, best first."""
    vectors = np.array([[score, np.sqrt(1 - score**2)] for score in scores], dtype=np.float32)
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    order = np.argsort(-np.array(scores), kind="stable")
    ranked = [[passages.chunk_ids[place] for place in order]]
    miner = Miner(passages, vectors, set(held_out), MiningConfig(**settings), seed)
    return miner.mine([pair], query, ranked)


def test_the_highest_ranked_passages_are_taken_without_the_oracle(
    make_pair: MakePair, make_passages: MakePassages
) -> None:
    passages = make_passages("oracle", "one", "two", "three")
    mined = mine(passages, make_pair(), [0.9, 0.5, 0.7, 0.1], num_negatives=2)
    assert mined.examples[0].negatives == ("chunk-02", "chunk-01")
    assert mined.num_random == 0


def test_the_rows_own_distractors_come_first_and_are_guarded_too(
    make_pair: MakePair, make_passages: MakePassages
) -> None:
    passages = make_passages("oracle", "one", "two holds the answer word", "three")
    pair = make_pair(answer="answer word", distractors=("chunk-02", "chunk-03", "chunk-00"))
    mined = mine(passages, pair, [0.9, 0.5, 0.4, 0.1], num_negatives=2)
    assert mined.examples[0].negatives == ("chunk-03", "chunk-01")
    assert mined.guarded == {"contains_answer": 1}


def test_a_passage_that_scores_almost_like_the_oracle_is_left_out(
    make_pair: MakePair, make_passages: MakePassages
) -> None:
    passages = make_passages("oracle", "one", "two", "three")
    scores = [0.8, 0.95, 0.77, 0.75]  # 0.95 x 0.8 = 0.76
    mined = mine(passages, make_pair(), scores, num_negatives=1, max_relative_score=0.95)
    assert mined.examples[0].negatives == ("chunk-03",)
    assert mined.guarded == {"scores_too_high": 2}


def test_only_ranks_inside_the_window_are_looked_at(
    make_pair: MakePair, make_passages: MakePassages
) -> None:
    passages = make_passages("oracle", *(f"passage {n}" for n in range(5)))
    scores = [0.9, 0.6, 0.5, 0.4, 0.3, 0.2]
    mined = mine(passages, make_pair(), scores, num_negatives=2, first_rank=3, last_rank=4)
    assert mined.examples[0].negatives == ("chunk-02", "chunk-03")


def test_held_out_documents_are_never_negatives_not_even_at_random(
    make_pair: MakePair, make_passages: MakePassages
) -> None:
    passages = make_passages("oracle", "one", "two", "three")
    scores = [0.9, 0.8, 0.7, 0.1]
    mined = mine(
        passages, make_pair(), scores, num_negatives=1, last_rank=2, held_out=("doc-01", "doc-02")
    )
    assert mined.examples[0].negatives == ("chunk-03",)
    assert mined.guarded == {"held_out_document": 1}
    assert mined.num_random == 1


def test_a_question_that_the_model_understands_least_gets_random_negatives_whatever_they_score(
    make_pair: MakePair, make_passages: MakePassages
) -> None:
    passages = make_passages("oracle", "one", "two")
    mined = mine(passages, make_pair(), [0.1, 0.8, 0.7], num_negatives=1)
    assert mined.guarded == {"scores_too_high": 2}
    assert mined.num_random == 1
    assert len(mined.examples) == 1


def test_where_nothing_is_left_the_question_is_left_out_and_counted(
    make_pair: MakePair, make_passages: MakePassages
) -> None:
    mined = mine(make_passages("oracle", "oracle"), make_pair(), [0.5, 0.5], num_negatives=1)
    assert (mined.examples, mined.num_without) == ([], 1)


def test_random_negatives_depend_on_the_seed_and_on_nothing_else(
    make_pair: MakePair, make_passages: MakePassages
) -> None:
    passages = make_passages("oracle", *(f"passage {n}" for n in range(30)))
    scores = [0.1] + [0.9] * 30
    drawn = [
        mine(passages, make_pair(), scores, num_negatives=3, seed=seed).examples[0].negatives
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
