"""Metrics of whole systems, against trec_eval and ir_measures; comparisons by hand."""

from __future__ import annotations

import random

import ir_measures
import pytest
import pytrec_eval
from ir_measures import RR, P, R, Success, nDCG

from pipeline_lib.evaluation.retrieval.scoring import (
    compare_systems,
    estimate_system,
    metric_names,
    score,
)
from pipeline_lib.evaluation.statistics import Resampling

QUICK = Resampling(num_samples=500)
CUTOFFS = (1, 5, 10)


@pytest.fixture(scope="module")
def random_system() -> tuple[dict[str, list[tuple[str, float]]], dict[str, dict[str, int]]]:
    chooser = random.Random(11)
    documents = [f"d{number}" for number in range(50)]
    rankings, relevance = {}, {}
    for query in (f"q{number}" for number in range(40)):
        judged = chooser.sample(documents, chooser.randint(1, 9))
        relevance[query] = {name: chooser.randint(0, 3) for name in judged}
        relevance[query][judged[0]] = 1
        names = chooser.sample(documents, chooser.randint(1, 30))
        rankings[query] = [(name, 100.0 - rank) for rank, name in enumerate(names)]
    del rankings["q7"]  # found nothing
    return rankings, relevance


def test_averages_equal_ir_measures_and_trec_eval_and_count_queries_without_results(
    random_system,
) -> None:
    rankings, relevance = random_system
    system = score("s", rankings, relevance, CUTOFFS)
    means = {name: value.mean for name, value in estimate_system(system, QUICK).items()}
    assert list(means) == metric_names(CUTOFFS)
    run = {query: dict(ranking) for query, ranking in rankings.items()}
    measures = {"ndcg": nDCG, "recall": R, "precision": P, "success": Success, "mrr": RR}
    for name, measure in measures.items():
        for k in CUTOFFS:
            expected = ir_measures.calc_aggregate([measure @ k], relevance, run)
            assert means[f"{name}@{k}"] == pytest.approx(expected[measure @ k], abs=1e-9)
    evaluator = pytrec_eval.RelevanceEvaluator(relevance, {"ndcg_cut.10", "recall.5", "P.1"})
    results = evaluator.evaluate(run)
    for query in results:
        row = system.queries.index(query)
        assert system.column("ndcg@10")[row] == pytest.approx(results[query]["ndcg_cut_10"])
        assert system.column("recall@5")[row] == pytest.approx(results[query]["recall_5"])
        assert system.column("precision@1")[row] == pytest.approx(results[query]["P_1"])


def test_a_system_restricted_to_some_queries_keeps_their_values(random_system) -> None:
    rankings, relevance = random_system
    system = score("s", rankings, relevance, CUTOFFS)
    part = system.restricted(["q3", "q1"])
    assert part.queries == ("q3", "q1")
    assert part.column("mrr@10")[1] == system.column("mrr@10")[1]


def test_comparisons_are_paired_and_adjusted_over_their_whole_table() -> None:
    relevance = {f"q{n}": {"r": 1} for n in range(30)}
    good = score("good", {q: [("r", 1.0)] for q in relevance}, relevance, (1,))
    bad = score("bad", {q: [("x", 1.0)] for q in relevance}, relevance, (1,))
    same = score("same", {q: [("r", 1.0)] for q in relevance}, relevance, (1,))
    results = compare_systems([(good, bad), (good, same)], ["ndcg@1", "mrr@1"], QUICK)
    assert [(r.system, r.against, r.metric) for r in results] == [
        ("good", "bad", "ndcg@1"), ("good", "bad", "mrr@1"),
        ("good", "same", "ndcg@1"), ("good", "same", "mrr@1"),
    ]  # fmt: skip
    assert [r.difference for r in results] == [1.0, 1.0, 0.0, 0.0]
    smallest = 1 / 501
    assert results[0].p_value == pytest.approx(smallest)
    assert results[0].adjusted_p_value == pytest.approx(4 * smallest)
    assert results[0].is_clear(0.95)
    assert results[2].adjusted_p_value == 1.0
    assert not results[2].is_clear(0.95)
    assert compare_systems([], ["ndcg@1"], QUICK) == []
