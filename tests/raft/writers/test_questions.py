from __future__ import annotations

import pytest

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.facts import Fact
from pipeline_lib.raft.writers.questions import (
    EXAMPLES,
    QUESTIONS_PER_FACT,
    check_question,
    check_wording,
    first_words,
    is_near_duplicate,
    points_to_the_passage,
    question_prompt,
)

SENTENCE = "A suspension bridge hangs its deck from steel cables because they are strong."


def fact(text: str = SENTENCE) -> Fact:
    whole = Chunk(chunk_id="c", document_id="d", ordinal=0, start=0, end=0, text=text, num_tokens=0)
    return Fact(whole, 0, len(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "If the pump fails at night, an alarm sounds.",
            (" What happens if the pump fails", " When", " What"),
        ),
        ("A glacier is a body of ice.", (" What is a glacier", " What")),
        ("The valve closes to avoid floods.", (" What does the valve", " Why", " What")),
        ("Objects hold values.", (" What do objects", " What")),
        ("Python has no pointers.", (" What",)),
        ("Paris is large.", (" What",)),
        ("Bees have six legs.", (" What do bees", " How many", " What")),
        ("Python 3.0 introduced names.", (" What",)),
    ],
)
def test_the_facts_own_words_suggest_how_to_ask(text: str, words: tuple[str, ...]) -> None:
    assert first_words(fact(text)) == words
    assert len(words) <= QUESTIONS_PER_FACT


def test_the_prompt_ends_where_the_question_is_to_begin() -> None:
    prompt = question_prompt(fact("Two\n  lines."), "A\ntitle", " Why")
    assert prompt.text is not None
    assert prompt.text.endswith("\n\nTopic: A title\nFact: Two lines.\nQuestion:")
    assert prompt.forced_prefix == " Why"
    assert prompt.text.count("Question:") == len(EXAMPLES) + 1


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ("What does a suspension bridge hang from?", None),
        ("A suspension bridge hangs its deck.", "not_a_question"),
        ("1. What is a suspension bridge?\n2. Why?", "not_a_question"),
        ("Bridge what?", "length"),
        ("What " + "suspension bridge " * 20 + "?", "length"),
        ("What does this passage say about a suspension bridge?", "points_to_the_passage"),
        ("What is a suspension bridge according to the text?", "points_to_the_passage"),
        ("Which of the following is a suspension bridge?", "points_to_the_passage"),
        (EXAMPLES[0].question, "copied_example"),
        (EXAMPLES[1].question.upper(), "copied_example"),
        ("When is the last day of the month?", "not_about_the_fact"),
        ("What is the price of a suspension bridge?", "words_from_elsewhere"),
        ("Why is a suspension bridge not strong?", "negates"),
        ("Why is a suspension bridge a suspension bridge?", "repeats_itself"),
        (
            "Why does a suspension bridge hang its deck from strong steel cables?",
            "nothing_left_to_answer",
        ),
    ],
)
def test_gates_name_what_is_wrong(question: str, problem: str | None) -> None:
    assert check_question(question, fact(), "Bridges") == problem


def test_words_of_the_title_may_be_used() -> None:
    assert (
        check_question("What does a suspension bridge in Rome hang from?", fact(), "Rome") is None
    )


def test_peer_bug_numbered_and_preamble_lines_do_not_survive_as_questions() -> None:
    """gorilla raft.py: the cleaner is commented out."""
    for line in ("Here are 5 questions:", "1.", "Sure! I can help.", "Question 3"):
        assert check_wording(line) == "not_a_question"


@pytest.mark.parametrize(
    ("left", "right", "is_same"),
    [
        ("What is a glacier?", "what is a Glacier?", True),
        ("What is a glacier made of?", "What are glaciers made of?", True),
        ("What is a glacier?", "What is a bridge?", False),
        ("When does the library close?", "When does the library open?", False),
    ],
)
def test_near_duplicates_have_the_same_content_words(left: str, right: str, is_same: bool) -> None:
    assert is_near_duplicate(left, right) is is_same


@pytest.mark.parametrize(
    ("question", "is_so"),
    [
        ("How do document 1 and document 2 differ in length?", True),
        ("What do both passages say about glaciers?", True),
        ("What does the second text add?", True),
        ("Which documents does a customs officer ask for?", False),
        ("What do both glaciers and rivers carry?", False),
    ],
)
def test_a_question_that_counts_documents_points_to_them(question: str, is_so: bool) -> None:
    assert points_to_the_passage(question) is is_so
