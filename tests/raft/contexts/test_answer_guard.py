from __future__ import annotations

import pytest

from pipeline_lib.raft.contexts.guard import AnswerGuard
from pipeline_lib.raft.wording import words_in_order

ORACLE = "A fox is red. It sleeps by day in deep burrows under old trees."


def guard(answer: str = "in deep burrows", *quotes: str, oracle: str = ORACLE) -> AnswerGuard:
    return AnswerGuard([oracle], answer, quotes, near_duplicate_threshold=0.6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Badgers live IN DEEP\nburrows too.", "contains_answer"),
        ("Rabbits hide in deep, burrows.", "contains_answer"),
        ("Who knows? It sleeps  by day, they say.", "contains_quote"),
        ("Badgers live in deep dens.", None),
    ],
)
def test_the_answer_in_any_case_and_the_quotes_word_for_word_are_found(
    text: str, reason: str | None
) -> None:
    assert guard("in deep burrows", "It sleeps by day").danger(text) == reason


def test_a_text_that_is_mostly_the_oracles_is_found() -> None:
    words = [f"word{n}" for n in range(40)]
    oracle = " ".join(words)
    known = guard("nothing of it", oracle=oracle)
    assert known.danger(oracle.replace("word20", "other")) == "near_duplicate_of_oracle"
    assert known.danger(" ".join(words[10:30])) == "near_duplicate_of_oracle"
    assert known.danger(" ".join(words[::-1])) is None


def test_every_oracle_of_a_row_is_guarded() -> None:
    first, second = (" ".join(f"{name}{n}" for n in range(20)) for name in "ab")
    known = AnswerGuard([first, second], "x", (), near_duplicate_threshold=0.6)
    assert known.danger(second + " more") == "near_duplicate_of_oracle"


def test_an_answer_inside_longer_words_does_not_count() -> None:
    assert guard("cat").danger("The catalogue is long.") is None


@pytest.mark.parametrize("answer", ["no", "", "?", "It is."])
def test_an_answer_of_stop_words_says_nothing(answer: str) -> None:
    """Else almost every passage would count as answering."""
    assert guard(answer).danger("There is no fox here: it is gone.") is None


def test_a_made_up_text_may_be_nearly_the_oracles() -> None:
    oracle = f"{ORACLE} At night it hunts mice and voles in the fields beyond the river."
    near = oracle.replace("deep burrows", "high nests")
    known = guard(oracle=oracle)
    assert known.danger(near) == "near_duplicate_of_oracle"
    assert known.evidence_in(near) is None
    assert known.evidence_in(oracle) == "contains_answer"


def test_a_pattern_needs_words() -> None:
    assert words_in_order("...") is None
    pattern = words_in_order("C++ (1998)")
    assert pattern is not None
    assert pattern.search("in c, 1998") is not None
