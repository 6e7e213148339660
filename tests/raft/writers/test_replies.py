"""What is read in the replies of chat teachers, however they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.generation.base import Completion
from pipeline_lib.raft.candidates import Rejection, Written
from pipeline_lib.raft.markup import escape
from pipeline_lib.raft.quotes import verify_quote
from pipeline_lib.raft.rendering import REFUSAL_ANSWER
from pipeline_lib.raft.showing import ShownPassage
from pipeline_lib.raft.writers.replies import check_question, read_answer, read_questions
from tests.corpus.made_corpora import make_chunk

TWO = ["What does the badger collect?", "When is the badger hungry?"]


def reply(text: str, finish: str = "stop") -> Completion:
    return Completion(text, 10, 10, finish)  # type: ignore[arg-type]


def shown(*texts: str) -> list[ShownPassage]:
    return [
        ShownPassage(make_chunk(f"chunk-{number}", text, f"doc-{number}"), f"Page {number}")
        for number, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"questions": ["What does the badger collect?", "When is the badger hungry?"]}',
        '["What does the badger collect?", "When is the badger hungry?"]',
        '```json\n{"questions": ["What does the badger collect?",\n'
        '  "When is the badger hungry?",]}\n```\nLet me know if you need more!',
        '{"questions": [{"question": "What does the badger collect?", "answer": "acorns"},'
        ' {"question": "When is the badger hungry?"}]}',
        '{"1": "What does the badger collect?", "2": "When is the badger hungry?"}',
        "What does the badger collect?\nWhen is the badger hungry?",
        "1. What does the badger collect?\n\n2) When is the badger hungry?",
        "1.What does the badger collect? 2. When is the badger hungry?",
        "Sure! Here are two questions:\n\n1. **What does the badger collect?**\n"
        "2. **When is the badger hungry?**\n\nLet me know if you need more.",
        "Q1: What does the badger collect?\nA1: Acorns.\nQ2: When is the badger hungry?\nA2: Dusk.",
        "**Question 1:** What does the badger collect?\n**Question 2:** When is the badger hungry?",
        '- "What does the badger collect?",\n- \u201cWhen is the badger hungry?\u201d',
    ],
)
def test_questions_are_found_in_any_list(text: str) -> None:
    assert read_questions(reply(text), num_wanted=2) == TWO


def test_no_more_questions_are_read_than_were_asked_for() -> None:
    assert read_questions(reply("\n".join(TWO * 3)), num_wanted=2) == TWO


@pytest.mark.parametrize(
    "text",
    [
        '{"questions": ["What does the badger collect?", "When is the ba',
        "1. What does the badger collect?\n2. When is the ba",
        "What does the badger collect?\nIs it?",
    ],
)
def test_an_item_that_was_cut_off_is_lost_alone(text: str) -> None:
    assert read_questions(reply(text, "length"), num_wanted=2) == TWO[:1]


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("badger winter food\nbadger sleep", ["badger winter food", "badger sleep"]),
        ("Here are the queries:\n- badger winter food", ["badger winter food"]),
        ('{"questions": ["badger winter food"]}', ["badger winter food"]),
        ('What is the length of ["a", "b"]?', ['What is the length of ["a", "b"]?']),
        ("3.11 added which syntax?", ["3.11 added which syntax?"]),
        ("*args takes which arguments?", ["*args takes which arguments?"]),
        ("What does __init__ return?", ["What does __init__ return?"]),
        ("What does '''x''' mean?", ["What does '''x''' mean?"]),
    ],
)
def test_what_a_question_consists_of_stays(text: str, questions: list[str]) -> None:
    assert read_questions(reply(text), num_wanted=4) == questions


@pytest.mark.parametrize("text", ["", "\n\n", "Here are 5 questions:", "1.", "[", "{}", "---"])
def test_peer_bug_numbers_and_preambles_are_no_questions(text: str) -> None:
    """gorilla raft.py: the cleaner of its lines is commented out."""
    assert read_questions(reply(text), num_wanted=5) == []


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ("What does the badger collect?", None),
        ("badger winter food", None),
        ("What is a badger? And what does it eat?", "several_questions"),
        ("According to the document, what is a badger?", "points_to_the_passage"),
    ],
)
def test_questions_must_stand_alone(question: str, problem: str | None) -> None:
    assert check_question(question) == problem


def test_markers_in_questions_come_back_as_they_were() -> None:
    question = "What does <|im_end|> close, and what </document>?"
    assert read_questions(reply(f"1. {escape(question)}"), num_wanted=1) == [question]


@given(st.text(alphabet=st.sampled_from('{}[]",:?*-_ \n`1aQuestion.)<answr/>'), max_size=120))
def test_every_reply_is_read_as_short_lines(text: str) -> None:
    for finish in ("stop", "length"):
        questions = read_questions(reply(text, finish), num_wanted=3)
        assert len(questions) <= 3
        assert all(question and "\n" not in question for question in questions)


BADGER = "At dusk it quietly collects acorns near the river. In winter the badger sleeps."
BEAVER = "The beaver builds dams of wood, and it eats the bark of aspen trees."
ONE = 'It is so at dusk. <quote doc="1">it quietly collects acorns</quote>\n<answer>acorns</answer>'


def test_steps_and_quotes_are_read_with_their_places() -> None:
    read = read_answer(reply(ONE), shown(BADGER), is_answerable=True)
    assert isinstance(read, Written)
    [step] = read.steps
    assert step.text == "It is so at dusk."
    assert step.quote is not None
    assert (step.quote.chunk_id, step.quote.start, step.quote.end) == ("chunk-0", 8, 34)
    assert read.final_answer == "acorns"


def test_courtesies_behind_the_answer_are_no_reasoning() -> None:
    text = f"{ONE}\n\nLet me know if I can help with anything else!"
    assert read_answer(reply(text), shown(BADGER), is_answerable=True) == read_answer(
        reply(ONE), shown(BADGER), is_answerable=True
    )


BOTH = (
    'The one: <quote doc="1">collects acorns near</quote> The other: '
    '<quote doc="2">eats the bark of aspen</quote>\n<answer>acorns and bark</answer>'
)


def test_an_answer_from_two_passages_quotes_both() -> None:
    passages = shown(BADGER, BEAVER)
    read = read_answer(reply(BOTH), passages, is_answerable=True)
    assert isinstance(read, Written)
    assert [quote.chunk_id for quote in read.quotes] == ["chunk-0", "chunk-1"]
    assert read_answer(reply(ONE), passages, is_answerable=True) == Rejection(
        "quotes", "one_passage_only", ONE
    )
    swapped = BOTH.replace('"2"', '"1"')
    assert read_answer(reply(swapped), passages, is_answerable=True) == Rejection(
        "quotes", "misattributed", "eats the bark of aspen"
    )


REFUSAL = f"<answer>{REFUSAL_ANSWER}</answer>"


def test_an_unanswerable_question_is_right_when_it_is_refused() -> None:
    for text in (REFUSAL, f"Nothing says it. {REFUSAL}"):
        read = read_answer(reply(text), shown(BADGER), is_answerable=False)
        assert read == Written((), REFUSAL_ANSWER)
    read = read_answer(reply(ONE), shown(BADGER), is_answerable=False)
    assert read == Rejection("answer", "answerable_after_all", "acorns")


@pytest.mark.parametrize(
    ("text", "finish", "step", "reason"),
    [
        (ONE, "length", "answer", "truncated"),
        (ONE, "filter", "answer", "filtered"),
        ("", "budget", "budget", "budget_spent"),
        (ONE.partition("<answer>")[0], "stop", "answer", "no_answer_marked"),
        ("", "stop", "answer", "no_answer_marked"),
        ("<answer> </answer>", "stop", "answer", "no_answer_marked"),
        (REFUSAL, "stop", "answer", "refused"),
        (ONE.replace("it quietly", "it loudly"), "stop", "quotes", "absent"),
        (ONE.replace("it quietly collects acorns", "collects acorns near … the badger sleeps"),
         "stop", "quotes", "stitched"),
        (ONE.replace('doc="1"', 'doc="2"'), "stop", "quotes", "misattributed"),
        (ONE.replace("It is so at dusk. ", ""), "stop", "reasoning", "only_quotes"),
        ("<answer>acorns</answer>", "stop", "reasoning", "no_reasoning"),
    ],
)  # fmt: skip
def test_peer_bug_labels_without_tag_or_verbatim_quote_are_dropped(
    text: str, finish: str, step: str, reason: str
) -> None:
    """gorilla raft.py: no check for truncation, a missing `<ANSWER>:`, or quotes not verbatim."""
    read = read_answer(reply(text, finish), shown(BADGER), is_answerable=True)
    assert isinstance(read, Rejection)
    assert (read.step, read.reason) == (step, reason)


_PIECES = st.sampled_from(
    [
        "<answer>", "</answer>", '<quote doc="1">', '<quote doc="2">', "</quote>", "<quote>",
        "it quietly collects acorns", "eats the bark", "Question:", "</document>", "<|im_end|>",
        "it is", " ", "\n", '{"answer": 1}', r"<\answer>", REFUSAL_ANSWER,
    ]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=14).map("".join), st.booleans())
def test_whatever_is_read_verifies(text: str, is_answerable: bool) -> None:
    passages = shown(BADGER, BEAVER)
    read = read_answer(reply(text), passages, is_answerable=is_answerable)
    if isinstance(read, Rejection) or not is_answerable:
        return
    assert {quote.chunk_id for quote in read.quotes} == {"chunk-0", "chunk-1"}
    for quote in read.quotes:
        number = ["chunk-0", "chunk-1"].index(quote.chunk_id) + 1
        assert verify_quote(quote.text, number, passages).status == "verbatim"
        assert passages[number - 1].text[quote.start : quote.end] == quote.text
