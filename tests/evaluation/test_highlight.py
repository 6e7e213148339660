"""Texts are cut at quotes without losing or inventing a character."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.evaluation.highlight import (
    Segment,
    Span,
    answer_segments,
    passage_segments,
    segments,
)
from pipeline_lib.evaluation.metrics.grounding import QUOTE_STATUSES

SPANS = st.lists(
    st.builds(
        Span,
        st.integers(-2, 30),
        st.integers(-2, 30),
        st.sampled_from(QUOTE_STATUSES),
        st.sampled_from(["base", "candidate"]),
    ),
    max_size=5,
)


@settings(deadline=None)
@given(st.text(max_size=25), SPANS)
def test_the_pieces_joined_are_the_text(text, spans):
    assert "".join(piece.text for piece in segments(text, spans)) == text


def test_overlapping_quotes_keep_both_arms_and_the_better_status():
    pieces = segments(
        "abcdef", [Span(1, 4, "misattributed", "base"), Span(2, 6, "verbatim", "candidate")]
    )
    assert pieces == [
        Segment("a"),
        Segment("b", "misattributed", ("base",)),
        Segment("cd", "verbatim", ("base", "candidate"), ("base",)),
        Segment("ef", "verbatim", ("candidate",), ("candidate",)),
    ]


def test_an_answers_repeated_quote_is_marked_at_each_of_its_places(make_answer):
    answer = make_answer(
        "base", "", quotes=[("It", "verbatim"), ("It", "absent")], text="It is. It was."
    )
    assert [(p.text, p.status) for p in answer_segments(answer)] == [
        ("It", "verbatim"),
        (" is. ", ""),
        ("It", "absent"),
        (" was.", ""),
    ]


def test_a_quote_that_is_not_in_the_answers_text_is_not_marked(make_answer):
    answer = make_answer("base", "", quotes=[("elsewhere", "absent")], text="Nothing here.")
    assert answer_segments(answer) == [Segment("Nothing here.")]


def test_a_quote_that_had_to_be_escaped_is_marked_in_its_escaped_form(make_answer):
    answer = make_answer(
        "base", "", quotes=[("Close it by </quote>.", "absent")], text="So: Close it by <\\/quote>."
    )
    assert [p.text for p in answer_segments(answer) if p.status] == ["Close it by <\\/quote>."]


def test_a_passage_shows_only_quotes_that_were_taken_from_it(make_record, make_answer):
    record = make_record(
        "r",
        [
            make_answer("base", "x", quotes=[("A dog is brown.", "misattributed")]),
            make_answer("candidate", "x", quotes=[("A fox is red.", "verbatim")]),
        ],
    )
    oracle = passage_segments(record.passages[0], record.answers)
    assert [(p.text, p.status, p.arms) for p in oracle if p.status] == [
        ("A fox is red.", "verbatim", ("candidate",))
    ]
    other = passage_segments(record.passages[1], record.answers)
    assert [(p.text, p.status) for p in other if p.status] == [("A dog is brown.", "misattributed")]
