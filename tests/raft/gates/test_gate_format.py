from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline_lib.config import GateConfig
from pipeline_lib.raft.candidates import Candidate, Rejection, Written
from pipeline_lib.raft.gates.format import AnswerForm, QuestionForm, ReasoningForm
from pipeline_lib.raft.rendering import REFUSAL_ANSWER

Make = Callable[..., Candidate]


def reason(rejections: list[Rejection | None]) -> str | None:
    (only,) = rejections
    return None if only is None else f"{only.step}.{only.reason}"


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ("When does the library close?", None),
        ('Who wrote "When?"', None),
        ("図書館はいつ閉まりますか\uff1f", None),
        ("متى تغلق المكتبة\u061f", None),
        ("", "question.empty"),
        ("  \n ", "question.empty"),
        ("The library closes at noon.", "question.not_a_question"),
        ("Here are two questions:\nWhen does it close?", "question.several_lines"),
        ("What is it?", "question.about_nothing"),
        ("Why " + "library " * 60 + "?", "question.too_long"),
    ],
)
def test_a_question_is_one_line_that_ends_as_questions_do(
    make_candidate: Make, question: str, problem: str | None
) -> None:
    assert reason(QuestionForm(GateConfig()).check([make_candidate(question)])) == problem


def test_a_keyword_query_needs_no_question_mark(make_candidate: Make) -> None:
    query = "library closing time saturday"
    gate = QuestionForm(GateConfig())
    assert reason(gate.check([make_candidate(query, style="keyword")])) is None
    assert reason(gate.check([make_candidate(query)])) == "question.not_a_question"


def test_a_user_may_put_a_question_in_any_form_but_not_at_any_length(make_candidate: Make) -> None:
    gate = QuestionForm(GateConfig(max_question_chars=30))
    assert reason(gate.check([make_candidate("tell me about\nit", source="user")])) is None
    long = make_candidate("tell me " * 10, source="user")
    assert reason(gate.check([long])) == "question.too_long"


@pytest.mark.parametrize(
    ("answer", "kind", "problem"),
    [
        ("At noon", "factual", None),
        ("word " * 80, "factual", None),
        ("word " * 81, "factual", "answer.too_long"),
        (" ", "factual", "answer.no_answer"),
        (None, "factual", "answer.no_answer"),
        ("The documents do not contain the answer", "factual", "answer.refused"),
        (REFUSAL_ANSWER, "unanswerable", None),
        ("At noon", "unanswerable", "answer.answered_after_all"),
    ],
)
def test_an_answer_is_there_short_and_refuses_only_what_the_corpus_does_not_answer(
    make_candidate: Make, answer: str | None, kind: str, problem: str | None
) -> None:
    gate = AnswerForm(GateConfig())
    assert reason(gate.check([make_candidate(answer=answer, kind=kind)])) == problem


def test_a_known_answer_may_be_as_long_as_it_is(make_candidate: Make) -> None:
    known = make_candidate(answer="word " * 200, known_answer="word " * 200, source="user")
    assert reason(AnswerForm(GateConfig()).check([known])) is None


@pytest.mark.parametrize(
    ("reasoning", "known", "problem"),
    [
        ("It is about Saturdays.", None, None),
        ("", None, "reasoning.only_quotes"),
        ("", "At noon", None),
        ("word " * 13, None, None),
        ("word " * 14, None, "reasoning.too_long"),
    ],
)
def test_reasoning_says_something_and_is_not_too_long_quotes_included(
    make_candidate: Make, reasoning: str, known: str | None, problem: str | None
) -> None:
    """The quote has seven words."""
    gate = ReasoningForm(GateConfig(max_reasoning_words=20))
    candidate = make_candidate(reasoning=reasoning, known_answer=known)
    assert reason(gate.check([candidate])) == problem


def test_a_refusal_needs_no_reasoning(make_candidate: Make) -> None:
    refusal = make_candidate(answer=REFUSAL_ANSWER, reasoning="", quotes=(), kind="unanswerable")
    assert refusal.written == Written((), REFUSAL_ANSWER)
    assert reason(ReasoningForm(GateConfig()).check([refusal])) is None
