"""Gates that ask the teacher again: agreement, closed book, consistency."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.generation.base import Completion, GenerationParams, Prompt
from pipeline_lib.raft.candidates import Candidate, Rejection, Topic
from pipeline_lib.raft.gates.agreement import Agreement
from pipeline_lib.raft.gates.asking import Asking, read_final_answer
from pipeline_lib.raft.gates.closed_book import NeedsDocument, is_right
from pipeline_lib.raft.gates.consistency import Consistency
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rendering import REFUSAL_ANSWER
from tests.corpus.made_corpora import make_chunk

Make = Callable[..., Candidate]
Ask = Callable[..., Asking]


def says(text: str) -> Callable[[Prompt, GenerationParams], str]:
    return lambda _prompt, _params: text


def reasons(results: list[Rejection | None]) -> list[str | None]:
    return [result and f"{result.step}.{result.reason}" for result in results]


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("<answer>At noon</answer>", "stop", "At noon"),
        ("It closes.\n<answer>At noon</answer> bye", "stop", "At noon"),
        ("  At\nnoon ", "stop", "At noon"),
        (f"<answer>{REFUSAL_ANSWER}</answer>", "stop", None),
        ("At n", "length", Rejection("s", "truncated", "At n")),
        ("", "filter", Rejection("s", "filtered", "")),
        ("", "budget", Rejection("s", "budget_spent", "")),
    ],
)
def test_a_final_answer_is_read_from_whatever_was_written(
    text: str, finish: Any, expected: object
) -> None:
    assert read_final_answer(Completion(text, 1, 1, finish), "s") == expected


def test_agreement_asks_from_the_oracles_alone_and_compares(
    make_candidate: Make, ask_with: Ask, fake_teacher: Any
) -> None:
    def script(prompt: Prompt, _params: GenerationParams) -> str:
        question = prompt.chat_messages()[-1]["content"].rpartition("Question: ")[2]
        answers = {
            "When one?": "<answer>At noon.</answer>",
            "When two?": "<answer>In the evening</answer>",
            "When three?": f"<answer>{REFUSAL_ANSWER}</answer>",
            "When four?": "it goes on and on",
        }
        return answers[question]

    teacher = fake_teacher(script, finish=lambda text: "length" if "goes on" in text else "stop")
    gate = Agreement(ask_with(teacher), 0.5)
    questions = ["When one?", "When two?", "When three?", "When four?"]
    results = gate.check([make_candidate(question) for question in questions])
    assert reasons(results) == [
        None,
        "agreement.another_answer",
        "agreement.refused",
        "agreement.truncated",
    ]
    step, prompt, params = teacher.asked[0]
    assert step == "agreement"
    assert params.temperature == 0
    user = prompt.chat_messages()[-1]["content"]
    assert user.startswith('<document id="1" title="Page 0">\nOn Saturdays the library closes')


def test_agreement_shows_all_oracles_of_a_question(
    make_candidate: Make, ask_with: Ask, fake_teacher: Any
) -> None:
    teacher = fake_teacher(says("<answer>At noon</answer>"))
    candidate = make_candidate(texts=["One closes at noon.", "Two closes later."], quotes=[])
    assert Agreement(ask_with(teacher), 0.5).check([candidate]) == [None]
    user = teacher.asked[0][1].chat_messages()[-1]["content"]
    assert user.index('id="1" title="Page 0"') < user.index('id="2" title="Page 1"')


def test_what_needs_no_confirmation_is_not_asked(
    make_candidate: Make, ask_with: Ask, fake_teacher: Any
) -> None:
    teacher = fake_teacher(says("<answer>never</answer>"))
    candidates = [
        make_candidate(known_answer="At noon", source="user"),
        make_candidate(answer=REFUSAL_ANSWER, kind="unanswerable", quotes=[]),
    ]
    asking = ask_with(teacher)
    for gate in (Agreement(asking, 0.5), Consistency(asking, 3, 0.6)):
        assert gate.check(candidates) == [None, None]
    assert teacher.asked == []


def test_a_question_that_the_teacher_knows_by_heart_is_dropped(
    make_candidate: Make, ask_with: Ask, fake_teacher: Any
) -> None:
    teacher = fake_teacher(says("<answer>It closes at noon.</answer>"))
    results = NeedsDocument(ask_with(teacher)).check(
        [
            make_candidate(),
            make_candidate(known_answer="At noon"),
            make_candidate(answer="On public holidays"),
            make_candidate(answer=REFUSAL_ANSWER, kind="unanswerable", quotes=[]),
        ]
    )
    dropped = "closed_book.answered_without_document"
    assert reasons(results) == [dropped, dropped, None, None]
    assert "<document" not in teacher.asked[0][1].chat_messages()[-1]["content"]


def test_a_guess_that_came_to_nothing_shows_no_knowledge(
    make_candidate: Make, ask_with: Ask, fake_teacher: Any
) -> None:
    for text, finish in ((f"<answer>{REFUSAL_ANSWER}</answer>", "stop"), ("At noon", "length")):
        teacher = fake_teacher(says(text), finish=lambda _text, finish=finish: finish)
        assert NeedsDocument(ask_with(teacher)).check([make_candidate()]) == [None]


@pytest.mark.parametrize(
    ("guess", "answer", "expected"),
    [
        ("At noon", "At noon.", True),
        ("On Saturdays it closes at noon, as far as I know", "noon", True),
        (
            "At noon in Rome, in the evening in Oslo, early in winter, late in summer, never on "
            "holidays, always with a bell, and seldom without a guard, a porter and a key",
            "noon",
            False,
        ),
        ("It closes at 11 in the morning", "It closes at 12 in the morning", False),
        ("I do not know", "at noon", False),
        ("Yes", "Yes", True),
        ("No", "Yes", False),
        ("The library", "the library closes in the evening", False),
    ],
)
def test_a_guess_is_right_when_it_says_what_the_answer_adds(
    guess: str, answer: str, expected: bool
) -> None:
    assert is_right(guess, answer, "When does the library close?") is expected


def test_enough_samples_must_agree(make_candidate: Make, ask_with: Ask, fake_teacher: Any) -> None:
    """Of five samples the first two say something else."""

    def script(_prompt: Prompt, params: GenerationParams) -> str:
        return "<answer>In spring</answer>" if params.seed <= 3 else "<answer>noon</answer>"

    teacher = fake_teacher(script)
    asking = ask_with(teacher)
    assert Consistency(asking, 5, 0.6).check([make_candidate(answer="noon")]) == [None]
    (rejection,) = Consistency(asking, 5, 0.61).check([make_candidate(answer="noon")])
    assert rejection is not None
    assert rejection.reason == "samples_disagree"
    assert rejection.text == "In spring | In spring | noon | noon | noon"
    assert {params.temperature for _, _, params in teacher.asked} == {0.7}
    assert sorted({params.seed for _, _, params in teacher.asked}) == [2, 3, 4, 5, 6]


def test_where_the_budget_ends_candidates_are_dropped_as_unasked(
    make_candidate: Make, ask_with: Ask, fake_teacher: Any
) -> None:
    for gate_of in (
        lambda asking: Agreement(asking, 0.5),
        NeedsDocument,
        lambda asking: Consistency(asking, 1, 0.5),
    ):
        teacher = fake_teacher(says("<answer>five of them</answer>"), budget=1)
        candidates = [make_candidate(answer="five of them"), make_candidate("Why?")]
        gate = gate_of(ask_with(teacher))
        _, second = gate.check(candidates)
        assert second == Rejection(gate.step, "budget_spent", "")


MARKS = st.sampled_from(
    ["</document>", "<document id='2'>", "<answer>", "Question: x", "<|im_end|>", "\n", "\\", "a"]
)
HOSTILE = st.lists(MARKS | st.text(max_size=5), max_size=12).map("".join)


@settings(deadline=None)
@given(question=HOSTILE, text=HOSTILE, title=HOSTILE)
def test_hostile_text_changes_no_structure(
    fake_teacher: Any, prompts: PromptLibrary, question: str, text: str, title: str
) -> None:
    chunk = make_chunk("c", text, "d")
    candidate = Candidate(topic=Topic(split="train", chunks=(chunk,)), question=question)
    teacher = fake_teacher(says("x"))
    asking = Asking(teacher, prompts, {"d": title}, seed=1)
    asking.answers_again([candidate], step="agreement")
    user = teacher.asked[0][1].chat_messages()[-1]["content"]
    assert user.count("</document>") == 1
    assert len(re.findall(r"<\s*document\b", user, re.IGNORECASE)) == 1
    assert "<answer>" not in user
    assert "<|" not in user
    assert user.startswith('<document id="1" title="')
    assert "\n" not in user.rpartition("</document>\nQuestion:")[2]
