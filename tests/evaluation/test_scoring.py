"""Aggregates follow from the records, by hand and by the metric modules."""

from __future__ import annotations

from math import exp

import pytest

from pipeline_lib.evaluation.metrics import ARM_METRICS
from pipeline_lib.evaluation.metrics.modules import AnswerPerplexity, Bleu, TokenF1
from pipeline_lib.evaluation.scoring import summarize


@pytest.fixture
def summary(records, quick_config):
    return summarize(records, ["base", "candidate"], quick_config)


def test_means_are_those_of_the_questions(summary):
    assert summary.arms["candidate"]["exact_match"].mean == 0.75
    assert summary.arms["base"]["exact_match"].mean == 0.25
    assert summary.arms["candidate"]["exact_match"].num == 4


def test_quote_metrics_leave_out_the_question_whose_oracle_was_not_retrieved(summary):
    verbatim = summary.arms["candidate"]["verbatim_quote_rate"]
    assert verbatim.num == 3
    assert verbatim.mean == pytest.approx((1 + 0.5 + 1) / 3)
    assert summary.arms["candidate"]["all_quotes_valid"].mean == pytest.approx(2 / 3)
    assert summary.arms["candidate"]["oracle_citation_rate"].mean == 1.0
    assert summary.arms["base"]["verbatim_quote_rate"].mean == 0.0
    assert summary.num_oracle_in_context == 3


def test_retrieval_is_aggregated_once_for_all_arms(summary):
    assert summary.retrieval["recall@1"].mean == 0.75
    assert summary.retrieval["precision@3"].mean == pytest.approx(0.25)
    assert set(summary.retrieval) == {
        f"{m}@{k}" for m in ("recall", "precision", "mrr", "ndcg") for k in (1, 3)
    }


def test_corpus_metrics_equal_the_metric_modules(summary, records):
    for arm in ("base", "candidate"):
        answers = [record.answer(arm) for record in records]
        texts = [answer.final_answer for answer in answers]
        references = [record.reference_answer for record in records]
        bleu = Bleu().compute(predictions=texts, references=references)
        assert summary.arms[arm]["bleu"].mean == pytest.approx(bleu["bleu"])
        assert summary.signatures["bleu"] == bleu["signature"]
        f1 = TokenF1().compute(predictions=texts, references=references)["token_f1"]
        assert summary.arms[arm]["token_f1"].mean == pytest.approx(f1)
        perplexity = AnswerPerplexity().compute(
            predictions=[answer.sum_nll for answer in answers],
            references=[answer.num_target_tokens for answer in answers],
        )
        assert summary.arms[arm]["answer_perplexity"].mean == pytest.approx(
            perplexity["answer_perplexity"]
        )
    assert summary.arms["candidate"]["answer_perplexity"].mean == pytest.approx(exp(29 / 40))


def test_the_candidate_is_compared_with_the_base_on_every_metric(summary):
    assert [c.metric for c in summary.comparisons] == list(ARM_METRICS)
    for comparison in summary.comparisons:
        arms = summary.arms
        assert comparison.difference == pytest.approx(
            arms["candidate"][comparison.metric].mean - arms["base"][comparison.metric].mean
        )
        assert comparison.low <= comparison.difference <= comparison.high


def test_a_metric_that_applies_nowhere_is_missing_not_zero(
    make_record, make_answer, score_records, quick_config
):
    records = score_records(
        [
            make_record(
                "r1",
                [make_answer("base", "x"), make_answer("candidate", "y")],
                is_oracle_in_context=False,
            )
        ]
    )
    summary = summarize(records, ["base", "candidate"], quick_config)
    assert "verbatim_quote_rate" not in summary.arms["candidate"]
    assert summary.comparison("verbatim_quote_rate", "base") is None
    assert summary.comparison("token_f1", "base") is not None


def test_answers_are_counted_by_their_looks(summary):
    base, candidate = summary.answers["base"], summary.answers["candidate"]
    assert (base.num_answers, base.num_with_answer_tag, base.num_with_quote) == (4, 3, 1)
    assert base.quotes == {"verbatim": 0, "misattributed": 0, "stitched": 0, "absent": 1}
    assert candidate.quotes == {"verbatim": 3, "misattributed": 1, "stitched": 0, "absent": 0}


def test_the_champion_is_an_arm_that_the_candidate_is_compared_with(
    make_record, make_answer, score_records, quick_config
):
    answers = [make_answer(arm, "red") for arm in ("base", "candidate", "champion")]
    records = score_records([make_record("r1", answers), make_record("r2", answers)])
    summary = summarize(records, ["base", "candidate", "champion"], quick_config)
    assert summary.comparison("token_f1", "champion").difference == 0
    assert {c.against for c in summary.comparisons} == {"base", "champion"}
    assert {c.arm for c in summary.comparisons} == {"candidate"}
