from __future__ import annotations

import pytest

from pipeline_lib.generation.base import Score
from pipeline_lib.raft.writers.answers import (
    MAX_ANSWER_CANDIDATES,
    answer_prompt,
    answer_spans,
    answer_target,
    check_answer,
    check_reasoning,
    choose_answer,
    reasoning_prompt,
)
from pipeline_lib.raft.writers.questions import EXAMPLES


@pytest.mark.parametrize(
    ("fact", "question", "answer"),
    [
        (
            "If the pump fails, the red valve closes.",
            "What happens if the pump fails?",
            "the red valve closes",
        ),
        ("A slicing selects a range of items.", "What does a slicing select?", "a range of items"),
        (
            "The deck hangs from cables because they are strong.",
            "Why does the deck hang from cables?",
            "they are strong",
        ),
        ("A glacier is a large body of ice.", "What is a glacier?", "a large body of ice"),
    ],
)
def test_the_answer_is_among_the_candidates(fact: str, question: str, answer: str) -> None:
    spans = answer_spans(fact, question)
    assert answer in spans
    assert len(spans) <= MAX_ANSWER_CANDIDATES


@pytest.mark.parametrize(
    ("fact", "question"),
    [(e.fact, e.question) for e in EXAMPLES]
    + [('The "x" (or y) option, if set, adds 3 bits.', "What does the option add?")],
)
def test_every_candidate_is_a_span_of_the_fact_that_adds_to_the_question(
    fact: str, question: str
) -> None:
    for span in answer_spans(fact, question):
        assert span in fact
        assert check_answer(span, question, fact) is None
        assert span.count("(") == span.count(")")
        assert span.split()[0] not in {"and", "is", "which"}


def test_a_question_that_says_everything_leaves_no_candidate() -> None:
    assert answer_spans("A fox is red.", "Why is a fox red?") == []


def test_the_likeliest_candidate_wins_by_nats_per_word() -> None:
    """6 / (1 + 2) = 2 against 9 / (4 + 2) = 1.5."""
    chosen = choose_answer(["ice", "a body of ice"], [Score(6.0, 1), Score(9.0, 4)])
    assert chosen == ("a body of ice", 1.5)
    assert choose_answer(["first", "other"], [Score(3.0, 1), Score(3.0, 1)])[0] == "first"


def test_prompts_end_where_the_teacher_is_to_go_on() -> None:
    assert (answer_prompt("F.", "Q?").text or "").endswith("Fact: F.\nQuestion: Q?\nAnswer:")
    assert answer_target("ice") == " ice\n"
    prompt = reasoning_prompt("D.", "Q?", "a\nb")
    assert (prompt.text or "").endswith("Document: D.\nQuestion: Q?\nAnswer: a b\nReasoning:")
    assert prompt.forced_prefix == " The document says that"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("large body of ice", None),
        ("?!", "answer_length"),
        ("ice " * 60, "answer_length"),
        ("A glacier", "answer_repeats_question"),
        ("a body of water", "answer_not_grounded"),
    ],
)
def test_answers_are_short_new_and_grounded(answer: str, problem: str | None) -> None:
    source = "A glacier is a large body of ice."
    assert check_answer(answer, "What is a glacier?", source) == problem


def test_how_many_is_answered_with_a_number() -> None:
    source = "Bees have six legs and several eyes."
    question = "How many eyes do bees have?"
    assert check_answer("several eyes and legs", question, source) == "answer_has_no_number"
    assert check_answer("six legs", question, source) is None


@pytest.mark.parametrize(
    ("reasoning", "problem"),
    [
        ("The document says that a glacier is a large body of ice.", None),
        ("The document says that", "reasoning_incomplete"),
        ("Ice.", "reasoning_incomplete"),
        ("The document says that a glacier is a glacier.", "reasoning_misses_answer"),
        ("The document answers the question.", "reasoning_misses_answer"),
        ("The document says that a glacier is ice in Norway.", "reasoning_not_grounded"),
        ("The document says that ice is ice that is ice and ice.", "reasoning_in_circles"),
        ("The document says that a glacier is not ice.", "reasoning_negates"),
    ],
)
def test_reasoning_leads_to_the_answer_in_the_words_of_the_source(
    reasoning: str, problem: str | None
) -> None:
    found = check_reasoning(
        reasoning,
        "What is a glacier?",
        "a large body of ice",
        "A glacier is a large body of ice. Glaciers",
    )
    assert found == problem
