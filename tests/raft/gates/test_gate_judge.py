from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scipy.stats import binomtest

from pipeline_lib.config.questions import JudgeConfig
from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.raft.candidates import Candidate
from pipeline_lib.raft.gates.asking import Asking
from pipeline_lib.raft.gates.calibration import choose_good, measure, spoil, wilson_interval
from pipeline_lib.raft.gates.judge import CRITERIA, Judge, read_grades, shown_answer
from pipeline_lib.raft.rendering import REFUSAL_ANSWER

Make = Callable[..., Candidate]
Ask = Callable[..., Asking]


def verdict(**grades: int) -> str:
    return json.dumps({**dict.fromkeys(CRITERIA, 5), **grades, "comment": ""})


def text_of(number: int) -> str:
    return f"The house number {number} of the long street has {number + 40} old red doors."


@pytest.fixture
def candidates(make_candidate: Make) -> list[Candidate]:
    """Twelve good rows about houses."""
    return [
        make_candidate(
            f"How many doors has house {n}?",
            texts=[text_of(n)],
            first_number=n,
            answer=f"{n + 40} old red doors",
            quotes=[text_of(n)],
            reasoning=f"The document counts the doors of house {n}.",
        )
        for n in range(12)
    ]


def competent(prompt: Prompt, _params: GenerationParams) -> str:
    """Looks whether the answer's number and the whole quote stand in the document."""
    user = prompt.chat_messages()[-1]["content"]
    document, _, shown = user.partition("\nQuestion: ")
    answer = shown.rpartition("Final answer: ")[2]
    quote = shown.partition(': "')[2].partition('"')[0]
    if answer.split()[0] not in document:
        return verdict(support=1)
    return verdict() if quote.endswith("doors.") and quote in document else verdict(quotes=2)


def test_spoilt_rows_have_one_fault_each_by_turns(candidates: list[Candidate]) -> None:
    spoilt = spoil(candidates[:3])
    assert [each.fault for each in spoilt] == ["another_answer", "changed_number", "cut_quote"]
    another, number, cut = (each.candidate.written for each in spoilt)
    assert another is not None
    assert another.final_answer == "41 old red doors"
    assert number is not None
    assert number.final_answer == "48 old red doors"
    assert number.quotes == candidates[1].written.quotes  # type: ignore[union-attr]
    assert cut is not None
    assert cut.quotes[0].text == "The house number 2"
    assert cut.final_answer == "42 old red doors"


def test_a_fault_that_a_row_cannot_have_gives_way_to_the_next(make_candidate: Make) -> None:
    """Both say "At noon", and have no number."""
    same = [make_candidate(), make_candidate("What is the hour of closing?")]
    assert [each.fault for each in spoil(same)] == ["cut_quote", "cut_quote"]
    assert spoil([make_candidate(quotes=[])]) == []


def test_a_changed_number_is_changed_wherever_the_row_says_it(make_candidate: Make) -> None:
    candidate = make_candidate(answer="3 days, not 30", reasoning="It names 3 holidays of 30.")
    (spoilt,) = spoil([candidate])
    written = spoilt.candidate.written
    assert written is not None
    assert written.final_answer == "0 days, not 30"
    assert written.steps[0].text == "It names 0 holidays of 30."


@pytest.mark.parametrize(("right", "total"), [(0, 8), (8, 10), (24, 24), (31, 50)])
def test_the_interval_is_wilsons(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(0.95, "wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high))


def test_verdicts_are_counted_by_fault_and_none_is_wrong_on_any_row() -> None:
    result = measure(
        [True, False, None], [False, True, None], ["cut_quote", "cut_quote", "changed_number"]
    )
    assert (result.num_good, result.num_good_kept) == (3, 1)
    assert (result.num_spoilt, result.num_spoilt_refused) == (3, 1)
    assert result.accuracy == pytest.approx(2 / 6)
    assert result.faults == {
        "changed_number": {"rows": 1, "refused": 0},
        "cut_quote": {"rows": 2, "refused": 1},
    }


def test_calibration_rows_do_not_depend_on_the_order(candidates: list[Candidate]) -> None:
    assert choose_good(candidates, 5, 1) == choose_good(candidates[::-1], 5, 1)
    assert choose_good(candidates, 5, 1) != choose_good(candidates, 5, 2)


def test_a_judge_that_tells_good_from_spoilt_is_trusted_and_judges(
    candidates: list[Candidate], make_candidate: Make, ask_with: Ask, fake_teacher: Any
) -> None:
    judge = Judge(ask_with(fake_teacher(competent)), JudgeConfig())
    bad = make_candidate(
        texts=[text_of(20)], first_number=20, answer="99 doors", quotes=[text_of(20)]
    )
    results = judge.check(candidates)
    assert results == [None] * 12
    (rejection,) = judge.check([bad])
    assert rejection is not None
    assert (rejection.step, rejection.reason) == ("judge", "low_support")
    report = judge.report()
    assert report["is_trusted"] is True
    assert report["accuracy"] == 1.0
    assert (report["num_good"], report["num_spoilt"], report["num_unjudged"]) == (12, 12, 0)
    assert report["low"] < 1.0


def test_a_judge_that_praises_everything_is_not_used(
    candidates: list[Candidate], ask_with: Ask, fake_teacher: Any, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = fake_teacher(lambda _prompt, _params: verdict())
    judge = Judge(ask_with(teacher), JudgeConfig(num_calibration_rows=8))
    with caplog.at_level(logging.WARNING):
        assert judge.check(candidates) == [None] * 12
    assert "is not used: it was right about 50% of 8 good and spoilt rows" in caplog.text
    assert judge.report()["is_trusted"] is False
    assert judge.report()["num_unjudged"] == 12
    assert len(teacher.asked) == 8


def test_before_there_are_rows_enough_candidates_pass_unjudged_and_are_counted(
    candidates: list[Candidate], ask_with: Ask, fake_teacher: Any
) -> None:
    teacher = fake_teacher(competent)
    judge = Judge(ask_with(teacher), JudgeConfig())
    assert judge.check(candidates[:3]) == [None] * 3
    assert teacher.asked == []
    judge.check(candidates[3:7])
    assert judge.is_trusted
    assert judge.report()["num_unjudged"] == 3


def test_rows_that_cannot_be_spoilt_calibrate_nobody(
    make_candidate: Make, ask_with: Ask, fake_teacher: Any
) -> None:
    """All say the same, without a number or a quote: praise would always be right."""
    teacher = fake_teacher(lambda _prompt, _params: verdict())
    judge = Judge(ask_with(teacher), JudgeConfig())
    alike = [make_candidate(f"When {word}?", quotes=[]) for word in ("a", "b", "c", "d", "e")]
    assert judge.check(alike) == [None] * 5
    assert judge.calibration is None
    assert teacher.asked == []


def test_without_the_budget_to_calibrate_nothing_is_judged(
    candidates: list[Candidate], ask_with: Ask, fake_teacher: Any
) -> None:
    judge = Judge(ask_with(fake_teacher(competent, budget=5)), JudgeConfig())
    assert judge.check(candidates) == [None] * 12
    assert judge.calibration is None
    assert judge.report() == {"is_trusted": False, "num_unjudged": 12}


def test_an_output_that_is_no_verdict_is_a_rejection(
    candidates: list[Candidate], ask_with: Ask, fake_teacher: Any
) -> None:
    def script(prompt: Prompt, params: GenerationParams) -> str:
        user = prompt.chat_messages()[-1]["content"]
        return "Hm." if "House of nobody" in user else competent(prompt, params)

    judge = Judge(ask_with(fake_teacher(script)), JudgeConfig())
    judge.check(candidates)
    (rejection,) = judge.check([replace(candidates[0], question="House of nobody?")])
    assert rejection is not None
    assert (rejection.reason, rejection.text) == ("no_verdict", "Hm.")


def test_refusals_are_not_judged(make_candidate: Make, ask_with: Ask, fake_teacher: Any) -> None:
    teacher = fake_teacher(competent)
    refusals = [make_candidate(answer=REFUSAL_ANSWER, kind="unanswerable", quotes=[])] * 6
    assert Judge(ask_with(teacher), JudgeConfig()).check(refusals) == [None] * 6
    assert teacher.asked == []


def test_a_verdict_is_asked_for_by_schema(
    candidates: list[Candidate], ask_with: Ask, fake_teacher: Any
) -> None:
    teacher = fake_teacher(competent)
    Judge(ask_with(teacher), JudgeConfig(num_calibration_rows=8)).check(candidates)
    step, prompt, params = teacher.asked[0]
    assert step == "judge"
    schema = json.loads(params.json_schema)
    assert schema["required"] == [*CRITERIA, "comment"]
    assert schema["additionalProperties"] is False
    system = prompt.chat_messages()[0]["content"]
    assert all(f"{name}: 5 =" in system for name in CRITERIA)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (verdict(quotes=2), [5, 5, 5, 2]),
        (f"Here you are:\n```json\n{verdict(answer=3)}\n```", [5, 3, 5, 5]),
        ('{"Question": "4", "answer": 4.0, "support": 4, "quotes": 4}', [4, 4, 4, 4]),
        ("question: 5\nanswer: 4\n**support**: 3\nquotes = 2", [5, 4, 3, 2]),
        ('{"question": 5, "answer": 5, "support": 5}', None),
        ('{"question": 5, "answer": 5, "support": 5, "quotes": 6}', None),
        ('{"question": 5, "answer": 5, "support": 5, "quotes": true}', None),
        ('{"question": 5, "answer": 5, "support": 5, "quotes": 4.5}', None),
        ('{"question": 5, "answer": 5, "support": 5, "quotes": "NaN"}', None),
        ("[5, 5, 5, 5]", None),
        ("All good!", None),
        ("", None),
    ],
)
def test_grades_are_read_from_json_or_lines_and_must_be_complete(
    text: str, expected: list[int] | None
) -> None:
    grades = read_grades(text)
    assert (grades and list(grades.values())) == expected


def test_the_judge_sees_reasoning_quotes_and_answer_escaped(make_candidate: Make) -> None:
    candidate = make_candidate(
        texts=["One </document> here.", "The second passage speaks."],
        quotes=["One </document> here.", "The second passage"],
        answer="<answer>noon",
    )
    assert shown_answer(candidate).splitlines() == [
        "The document gives the hour for Saturdays.",
        'Quote from document 1: "One <\\/document> here."',
        'Quote from document 2: "The second passage"',
        "Final answer: <\\answer>noon",
    ]
