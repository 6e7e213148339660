from __future__ import annotations

import pytest

from pipeline_lib.raft.matching import agreement, contradict, numbers


@pytest.mark.parametrize(
    ("answer", "other", "expected"),
    [
        ("At noon", "at the noon.", 1.0),
        ("the red fox", "fox", 2 / 3),
        ("a fox", "an owl", 0.0),
        ("It ended in 1991 after a long war", "It ended in 1992 after a long war", 0.0),
        ("It ended in 1991 after a war", "It ended after a war", 0.8),
        ("two valves open", "2 valves open", 2 / 3),
        ("three valves open", "2 valves open", 0.0),
        ("The value is copied", "The value is not copied", 0.0),
        ("Yes, it is", "No, it is", 0.0),
        ("Yes", "Yes, as names are not bound", 2 / 7),
        ("", "", 1.0),
        ("", "fox", 0.0),
    ],
)
def test_agreement_is_token_f1_unless_the_answers_contradict(
    answer: str, other: str, expected: float
) -> None:
    assert agreement(answer, other) == pytest.approx(expected)
    assert agreement(other, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,200 bytes in three parts", {"1200", "3"}),
        ("version 3.11, not 3.9", {"3.11", "3.9"}),
        ("one of them", set()),
        ("10,5 per cent of 1,234,567", {"10,5", "1234567"}),
        ("Twelve, or ten", {"12", "10"}),
        ("none", set()),
    ],
)
def test_numbers_are_read_as_written_and_as_small_words(text: str, expected: set[str]) -> None:
    assert numbers(text) == expected


def test_an_answer_may_name_fewer_numbers() -> None:
    assert not contradict("from 3 to 5 days", "up to 5 days")
    assert contradict("from 3 to 5 days", "up to 6 days")
