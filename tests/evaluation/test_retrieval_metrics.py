"""Retrieval metrics: hand-worked cases, and trec_eval on random rankings."""

from __future__ import annotations

import random
from math import log2

import pytest
import pytrec_eval

from pipeline_lib.evaluation.metrics.retrieval import (
    MEASURES,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

RANKING = ["d3", "d1", "d4", "d2"]


def test_recall_is_the_share_of_relevant_documents_found_not_success():
    assert recall_at_k(RANKING, {"d1": 1, "d2": 1, "d9": 1}, 3) == pytest.approx(1 / 3)


def test_precision_divides_by_k_even_when_fewer_were_retrieved():
    assert precision_at_k(["d1"], {"d1": 1}, 5) == pytest.approx(0.2)


def test_mrr_takes_the_first_relevant_rank_within_k():
    relevance = {"d1": 1, "d2": 1}
    assert mrr_at_k(RANKING, relevance, 10) == 0.5
    assert mrr_at_k(RANKING, relevance, 1) == 0.0


def test_ndcg_has_linear_gain_and_an_ideal_over_all_judged_documents():
    relevance = {"d1": 1, "d2": 2, "d9": 3}
    gained = 1 / log2(3) + 2 / log2(5)
    ideal = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    assert ndcg_at_k(RANKING, relevance, 10) == pytest.approx(gained / ideal)


def test_a_query_without_results_scores_zero():
    assert [measure([], {"d1": 1}, 5) for measure in MEASURES.values()] == [0.0] * len(MEASURES)


def test_a_repeated_document_counts_once_at_its_best_rank():
    assert precision_at_k(["d1", "d1", "d2"], {"d1": 1, "d2": 1}, 2) == 1.0


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_query_without_relevant_documents_or_a_cutoff_below_one_is_refused(measure):
    with pytest.raises(ValueError, match="without relevant"):
        measure(RANKING, {"d1": 0}, 5)
    with pytest.raises(ValueError, match="at least 1"):
        measure(RANKING, {"d1": 1}, 0)


def test_all_measures_equal_trec_eval_on_random_rankings():
    chooser = random.Random(7)
    documents = [f"d{number}" for number in range(40)]
    qrels, runs = {}, {}
    for query in (f"q{number}" for number in range(60)):
        judged = chooser.sample(documents, chooser.randint(1, 12))
        qrels[query] = {name: chooser.randint(0, 3) for name in judged}
        qrels[query][judged[0]] = 1
        ranking = chooser.sample(documents, chooser.randint(1, 30))
        runs[query] = {name: 1000.0 - rank for rank, name in enumerate(ranking)}
    names = {"recall": "recall", "precision": "P", "ndcg": "ndcg_cut", "success": "success"}
    for k in (1, 3, 5, 10, 20):
        wanted = {f"{trec_name}.{k}" for trec_name in names.values()}
        reference = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(runs)
        for query, run in runs.items():
            ranking = list(run)
            for name, trec_name in names.items():
                assert MEASURES[name](ranking, qrels[query], k) == pytest.approx(
                    reference[query][f"{trec_name}_{k}"], abs=1e-9
                )
            # trec_eval has no cutoff for reciprocal rank: cut the ranking instead.
            cut = pytrec_eval.RelevanceEvaluator({query: qrels[query]}, {"recip_rank"}).evaluate(
                {query: {name: run[name] for name in ranking[:k]}}
            )
            assert mrr_at_k(ranking, qrels[query], k) == pytest.approx(cut[query]["recip_rank"])
