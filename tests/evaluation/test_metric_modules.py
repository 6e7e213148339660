"""The metrics as `evaluate.Metric`: offline, in memory, in batches, combined, in parallel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import log

import evaluate
import pytest

from pipeline_lib.evaluation.metrics import ARM_METRICS, RETRIEVAL_METRICS
from pipeline_lib.evaluation.metrics.modules import (
    QUOTE_METRICS,
    RANKING_METRICS,
    TEXT_METRICS,
    AllQuotesValid,
    AnswerPerplexity,
    Bleu,
    ExactMatch,
    MrrAtK,
    NdcgAtK,
    OracleCitationRate,
    PrecisionAtK,
    RecallAtK,
    RougeL,
    TokenF1,
    VerbatimQuoteRate,
)

EVERY_MODULE = (*RANKING_METRICS, *TEXT_METRICS, *QUOTE_METRICS, Bleu, AnswerPerplexity)


@pytest.mark.parametrize("module", EVERY_MODULE, ids=lambda module: module.metric)
def test_every_module_is_an_evaluate_metric_with_a_description(module):
    metric = module()
    assert isinstance(metric, evaluate.Metric)
    assert metric.description
    assert metric.inputs_description


def test_there_is_a_module_for_every_metric_and_no_other():
    assert {m.metric for m in EVERY_MODULE} == {*ARM_METRICS, *RETRIEVAL_METRICS}


def test_metrics_leave_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    TokenF1().compute(predictions=["a fox"], references=["fox"])
    assert list(tmp_path.iterdir()) == []


def test_compute_gives_the_mean_and_the_values_per_question():
    result = TokenF1().compute(predictions=["red fox", "dog"], references=["the fox", "cat"])
    assert result == {
        "token_f1": pytest.approx(1 / 3),
        "per_question": [pytest.approx(2 / 3), 0.0],
    }


def test_batches_add_up_to_the_whole():
    metric = RougeL()
    metric.add_batch(predictions=["a b"], references=["a b"])
    metric.add_batch(predictions=["c", "a"], references=["d", "a"])
    assert metric.compute()["rouge_l"] == pytest.approx(2 / 3)


def test_metrics_combine():
    both = evaluate.combine([ExactMatch(), Bleu()])
    result = both.compute(predictions=["the cat"], references=["the cat"])
    assert result["exact_match"] == 1.0
    assert result["bleu"] == pytest.approx(100.0)


def test_ranking_metrics_take_their_cutoff():
    rankings, relevant = [["x", "a", "y"], ["b"]], [["a"], ["b"]]

    def value(module, k):
        return module().compute(predictions=rankings, references=relevant, k=k)

    assert value(RecallAtK, 1)["recall@1"] == 0.5
    assert value(RecallAtK, 2)["recall@2"] == 1.0
    assert value(PrecisionAtK, 2)["precision@2"] == 0.5
    assert value(MrrAtK, 3)["mrr@3"] == 0.75
    assert value(NdcgAtK, 3)["per_question"] == [pytest.approx(1 / log(3, 2)), 1.0]


def test_quote_metrics_leave_out_questions_where_no_quote_is_expected():
    quotes = [
        [{"status": "verbatim", "chunk_id": "a"}, {"status": "absent", "chunk_id": None}],
        [],
        [],
    ]
    references = [
        {"oracle_chunk_id": "a", "is_quote_expected": True},
        {"oracle_chunk_id": "b", "is_quote_expected": True},
        {"oracle_chunk_id": "c", "is_quote_expected": False},
    ]

    def values(module):
        return module().compute(predictions=quotes, references=references)

    assert values(VerbatimQuoteRate) == {
        "verbatim_quote_rate": 0.25,
        "per_question": [0.5, 0.0, None],
    }
    assert values(AllQuotesValid)["per_question"] == [0.0, 0.0, None]
    assert values(OracleCitationRate)["per_question"] == [1.0, 0.0, None]


def test_a_quote_metric_that_applies_nowhere_has_no_value():
    result = VerbatimQuoteRate().compute(
        predictions=[[]], references=[{"oracle_chunk_id": "a", "is_quote_expected": False}]
    )
    assert result == {"verbatim_quote_rate": None, "per_question": [None]}


def test_perplexity_weighs_by_tokens():
    result = AnswerPerplexity().compute(predictions=[3 * log(2), log(8)], references=[3, 1])
    assert result == {"answer_perplexity": pytest.approx(2**1.5), "num_tokens": 4}


def test_metrics_run_in_parallel_without_disturbing_each_other():
    def score(number: int) -> float:
        prediction = " ".join(["x"] * number)
        return ExactMatch().compute(predictions=[prediction], references=["x x x"])["exact_match"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(score, range(8))) == [float(n == 3) for n in range(8)]
