"""Quote metrics, by hand."""

from __future__ import annotations

from pipeline_lib.evaluation.metrics.grounding import (
    QuoteOutcome,
    all_quotes_valid,
    count_statuses,
    oracle_cited,
    verbatim_quote_rate,
)

VERBATIM_A = QuoteOutcome("verbatim", "a")
MISATTRIBUTED_B = QuoteOutcome("misattributed", "b")
ABSENT = QuoteOutcome("absent", None)


def test_verbatim_quote_rate_is_the_share_of_verbatim_quotes():
    assert verbatim_quote_rate([VERBATIM_A, MISATTRIBUTED_B, ABSENT, VERBATIM_A]) == 0.5


def test_an_answer_without_quotes_scores_zero_so_that_silence_does_not_win():
    assert verbatim_quote_rate([]) == 0.0
    assert all_quotes_valid([]) == 0.0
    assert oracle_cited([], "a") == 0.0


def test_one_bad_quote_makes_the_answer_invalid():
    assert all_quotes_valid([VERBATIM_A, VERBATIM_A]) == 1.0
    assert all_quotes_valid([VERBATIM_A, ABSENT]) == 0.0


def test_the_oracle_is_cited_only_by_a_verbatim_quote_attributed_to_it():
    assert oracle_cited([ABSENT, VERBATIM_A], "a") == 1.0
    assert oracle_cited([VERBATIM_A], "b") == 0.0
    assert oracle_cited([MISATTRIBUTED_B], "b") == 0.0


def test_every_status_is_counted_also_when_it_did_not_occur():
    counts = count_statuses(["verbatim", "absent", "verbatim"])
    assert counts == {"verbatim": 2, "misattributed": 0, "stitched": 0, "absent": 1}
