"""Questions, pools and figures."""

from __future__ import annotations

from collections.abc import Callable
from math import log, log2
from typing import Any

import numpy as np
import pytest

from pipeline_lib.config import TuneRetrieverConfig
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.retriever.measuring import questions_of, score_questions, summarize
from pipeline_lib.retriever.pairs import Pair, Passages, make_pairs
from pipeline_lib.retriever.validation import Validation, ValidationScore

CONFIG = TuneRetrieverConfig(cutoffs=(1, 5), num_bootstrap_samples=500)


def test_rows_that_share_a_question_are_one_question_with_several_passages(
    make_pair: Callable[..., Pair],
) -> None:
    questions = questions_of(
        [
            make_pair(row_id="b", question="what?", chunk_id="chunk-02"),
            make_pair(row_id="a", question="What? ", chunk_id="chunk-01"),
            make_pair(row_id="c", question="Why?", chunk_id="chunk-03"),
        ]
    )
    assert [(q.question_id, q.chunk_ids) for q in questions] == [
        ("a", ("chunk-01", "chunk-02")),
        ("c", ("chunk-03",)),
    ]


def test_a_question_is_scored_under_every_arm(make_pair: Callable[..., Pair]) -> None:
    questions = questions_of([make_pair(chunk_id="x")])
    arms = {"bm25": [["a", "b", "x"]], "tuned/dense": [["x"]], "untuned/dense": [[]]}
    [result] = score_questions(questions, arms, CONFIG)
    assert result.ranks == {"bm25": 3, "tuned/dense": 1, "untuned/dense": None}
    assert result.metrics["bm25"] == pytest.approx(
        {"recall@1": 0, "recall@5": 1, "mrr@10": 1 / 3, "ndcg@10": 1 / log2(4)}
    )
    assert result.metrics["tuned/dense"]["ndcg@10"] == 1
    assert result.metrics["untuned/dense"]["recall@5"] == 0


def test_arms_are_compared_on_the_same_questions(make_pair: Callable[..., Pair]) -> None:
    pairs = [make_pair(row_id=f"{n:02}", question=f"{n}?", chunk_id=f"c{n}") for n in range(20)]
    arms = {
        "tuned/dense": [[f"c{n}"] for n in range(20)],
        "untuned/dense": [[f"c{n}"] if n % 2 else ["other"] for n in range(20)],
    }
    results = score_questions(questions_of(pairs), arms, CONFIG)
    evaluation = summarize(
        results, [("tuned/dense", "untuned/dense")], CONFIG, num_documents=3, num_passages=99
    )
    assert evaluation.arms["untuned/dense"]["recall@1"].mean == 0.5
    comparison = evaluation.comparison("recall@1", "tuned/dense", "untuned/dense")
    assert comparison is not None
    assert comparison.difference == 0.5
    assert 0 < comparison.low < 0.5 < comparison.high
    assert comparison.p_value < 0.01
    assert evaluation.comparison("recall@1", "bm25", "untuned/dense") is None


def test_the_order_of_a_questions_pool_and_its_softmax_are_what_validation_measures(
    make_pair: Callable[..., Pair], make_passages: Callable[..., Passages]
) -> None:
    passages = make_passages("right", "wrong", "worse")
    validation = Validation([make_pair()], [["chunk-02", "chunk-00", "chunk-01"]], passages, 2.0)
    vectors = {"right": [0.6, 0.8], "wrong": [0.8, 0.6], "worse": [0.0, 1.0], "What?": [1.0, 0.0]}

    def encode(texts: list[str]) -> Any:
        return np.array([vectors[text] for text in texts], dtype=np.float32)

    score = validation.score(encode, encode)
    assert score.ndcg == pytest.approx(1 / log2(3))  # second of three
    odds = np.exp(2 * np.array([0.6, 0.8, 0.0]))
    assert score.loss == pytest.approx(-log(odds[0] / odds.sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("ndcg", "loss", "is_better"),
    [(0.6, 9.0, True), (0.5, 0.9, True), (0.5, 1.1, False), (0.4, 0.1, False)],
)
def test_an_epoch_is_better_by_rank_and_by_loss_where_ranks_are_level(
    ndcg: float, loss: float, is_better: bool
) -> None:
    assert ValidationScore(ndcg, loss).is_better_than(ValidationScore(0.5, 1.0)) is is_better


def test_rows_become_pairs_once_and_what_does_not_is_counted(
    rows: list[RaftRow],
) -> None:
    refusal = rows[1].model_copy(
        update={"oracle_present": False, "target": "refuse", "context": (), "row_id": "refusal"}
    )
    unknown = rows[2].model_copy(update={"oracle_chunk_ids": ("gone",)})
    repeated = rows[0].model_copy(update={"question": rows[0].question.upper() + "  "})
    both = rows[3].model_copy(update={"oracle_chunk_ids": (rows[0].oracle_chunk_id,) * 2})
    unanswerable = rows[4].model_copy(update={"oracle_chunk_ids": ()})
    relevance = rows[0].model_copy(update={"task": "relevance"})
    ids = [rows[0].oracle_chunk_id, rows[1].oracle_chunk_id]
    pairs, dropped = make_pairs(
        [rows[0], repeated, refusal, unknown, both, unanswerable, relevance],
        Passages(ids, ["a", "b"], ["zero", "one"]),
    )
    assert [(pair.row_id, pair.chunk_id) for pair in pairs] == [
        ("row-00", ids[0]),
        ("refusal", ids[1]),
    ]
    # A row that teaches to refuse has a question and a passage, but no answer to look for.
    assert [pair.answer for pair in pairs] == ["answer0", ""]
    assert dropped == {
        "repeated_question": 1,
        "oracle_not_in_corpus": 1,
        "several_oracles": 1,
        "unanswerable": 1,
        "other_task": 1,
    }
