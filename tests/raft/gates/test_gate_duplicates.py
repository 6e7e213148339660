from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.raft.candidates import Candidate
from pipeline_lib.raft.gates import duplicates
from pipeline_lib.raft.gates.duplicates import AskedBefore, NewQuestion, NewReasoning, SaidBefore
from pipeline_lib.raft.wording import content_words, overlap

Make = Callable[..., Candidate]


@pytest.mark.parametrize(
    ("left", "right", "is_same"),
    [
        ("What is a glacier?", "what is a  Glacier?", True),
        ("What is a glacier made of?", "What are glaciers made of?", True),
        ("What is a glacier?", "What is a bridge?", False),
        ("When does the library close?", "When does the library open?", False),
        ("What is it?", "what is  IT?", True),
        ("What is it?", "Why is it?", False),
        (
            "Which treaty ended the long northern border war in 1991?",
            "Which treaty ended the long northern border war in 1992?",
            False,
        ),
        (
            "Which treaty ended the long northern border war in 1991?",
            "In 1991, which treaty ended the long border war?",
            True,
        ),
    ],
)
def test_near_duplicates_have_the_same_content_words_and_numbers(
    left: str, right: str, is_same: bool
) -> None:
    before = AskedBefore(0.8)
    before.extend([left])
    assert (before.find(right) == left) is is_same


def test_the_first_question_that_asks_the_same_is_found() -> None:
    before = AskedBefore(0.8)
    before.extend(["What is a glacier made of?", "When does the library close?", "Glaciers?"])
    assert before.find("What are glaciers made of?") == "What is a glacier made of?"
    assert before.find("Who closed the museum?") is None
    assert len(before) == 3


def test_what_is_found_is_not_added_and_what_is_new_is() -> None:
    before = AskedBefore(0.8)
    assert before.find_or_add("What is a glacier?") is None
    assert before.find_or_add("What are glaciers?") == "What is a glacier?"
    assert len(before) == 1


def test_word_for_word_means_just_that() -> None:
    before = AskedBefore(0.8)
    before.extend(["What is a glacier?", "What are glaciers?"])
    assert before.find("what are  glaciers?", word_for_word=True) == "What are glaciers?"
    assert before.find("What is the glacier?", word_for_word=True) is None


WORDS = st.lists(st.sampled_from([*"abcdefghij", "7", "8"]).map(lambda c: f"{c * 2}x"), max_size=9)


def numerals(question: str) -> set[str]:
    return {word for word in content_words(question) if any(c.isdigit() for c in word)}


@settings(deadline=None)
@given(
    st.lists(WORDS, max_size=30),
    st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0]),
    st.sampled_from([1, 1000]),
)
def test_finding_agrees_with_comparing_all_pairs(
    questions: list[list[str]], threshold: float, long_posting: int
) -> None:
    """Also across orderings of the words, which come early here, and in either kind of loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_FIRST_ORDERING", 2)
        patch.setattr(duplicates, "_LONG_POSTING", long_posting)
        _compare_all_pairs(questions, threshold)


def _compare_all_pairs(questions: list[list[str]], threshold: float) -> None:
    before = AskedBefore(threshold)
    kept: list[str] = []
    for words in questions:
        question = " ".join(words)
        expected = next(
            (
                other
                for other in kept
                if other == question
                or (
                    overlap(content_words(other), content_words(question)) >= threshold
                    and numerals(other) == numerals(question)
                )
            ),
            None,
        )
        assert before.find_or_add(question) == expected
        if expected is None:
            kept.append(question)


def test_a_generated_question_is_new_or_dropped_with_the_one_it_repeats(
    make_candidate: Make,
) -> None:
    gate = NewQuestion(AskedBefore(0.8))
    asked = ["When does the library close?", "When was the library closed?", "Who reads?"]
    results = gate.check([make_candidate(question) for question in asked])
    assert [r and (r.step, r.reason, r.text) for r in results] == [
        None,
        ("new", "asked_before", "When does the library close?"),
        None,
    ]


def test_a_users_question_is_dropped_only_when_it_is_there_word_for_word(
    make_candidate: Make,
) -> None:
    gate = NewQuestion(AskedBefore(0.8))
    asked = ["When does the library close?", "When was the library closed?", "who  reads?"]
    assert gate.check([make_candidate(q, source="user") for q in asked]) == [None, None, None]
    (again,) = gate.check([make_candidate("Who reads?", source="user")])
    assert again is not None
    assert again.text == "who  reads?"


def test_the_same_reasoning_twice_is_refused_whatever_it_quotes(make_candidate: Make) -> None:
    said = SaidBefore()
    said.add("The row that was taken over says this.")
    gate = NewReasoning(said)
    candidates = [
        make_candidate(reasoning="The document gives the hour."),
        make_candidate(reasoning="The document gives  the HOUR.", quotes=["closes at noon"]),
        make_candidate(reasoning="The row that was taken over says this."),
        make_candidate(reasoning=""),
        make_candidate(reasoning=""),
    ]
    reasons = [r and r.reason for r in gate.check(candidates)]
    assert reasons == [None, "same_as_another_row", "same_as_another_row", None, None]
