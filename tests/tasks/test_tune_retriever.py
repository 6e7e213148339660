"""What the UI shows of a tuned retriever."""

from __future__ import annotations

from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.retriever.measuring import RetrieverEvaluation
from tasks.tune_retriever import measurement_table


def test_the_measurement_has_a_row_for_each_search_and_a_column_for_each_metric() -> None:
    evaluation = RetrieverEvaluation(
        measuring_version=1,
        split="test",
        num_questions=20,
        num_documents=9,
        num_passages=99,
        confidence=0.95,
        arms={
            "bm25": {"ndcg@10": Estimate(mean=0.5, low=0.4, high=0.6, num=20)},
            "tuned/hybrid": {"ndcg@10": Estimate(mean=0.75, low=0.65, high=0.8, num=20)},
        },
        comparisons=(),
    )
    assert measurement_table(evaluation) == [
        {"Search": "bm25", "ndcg@10": "0.500 [0.400, 0.600]"},
        {"Search": "tuned/hybrid", "ndcg@10": "0.750 [0.650, 0.800]"},
    ]
