from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.funnel import Funnel
from pipeline_lib.raft.gates.build import (
    answer_gates,
    question_gates,
    round_trip_gates,
    run_gates,
    steps_of,
    toxic_words,
)
from pipeline_lib.raft.gates.duplicates import AskedBefore, SaidBefore
from pipeline_lib.raft.prompts.library import PromptLibrary

Make = Callable[..., Candidate]


def config_of(**gates: Any) -> SynthesizeConfig:
    return SynthesizeConfig.model_validate({"gates": gates})


EVERYTHING = config_of(
    languages=["en"],
    personal_data=True,
    toxicity=True,
    min_agreement=0.5,
    closed_book="drop",
    consistency_samples=2,
    judge={},
)


def test_by_default_only_what_costs_nothing_is_on(
    fake_teacher: Any, prompts: PromptLibrary
) -> None:
    config = SynthesizeConfig()
    teacher = fake_teacher(lambda _p, _q: "")
    assert steps_of(question_gates(config)) == ("question", "new")
    assert steps_of(round_trip_gates(config)) == ("round_trip",)
    answering = answer_gates(config, teacher, prompts, {})
    assert steps_of(answering) == ("answer", "quotes", "reasoning")


def test_every_gate_can_be_switched_on_and_stands_in_the_funnels_order(
    fake_teacher: Any, prompts: PromptLibrary
) -> None:
    assert steps_of(question_gates(EVERYTHING)) == (
        "question",
        "language",
        "personal_data",
        "toxicity",
        "new",
    )
    answering = answer_gates(EVERYTHING, fake_teacher(lambda _p, _q: ""), prompts, {})
    assert steps_of(answering) == (
        "answer",
        "quotes",
        "reasoning",
        "agreement",
        "closed_book",
        "consistency",
        "judge",
    )


def test_the_round_trip_can_be_switched_off() -> None:
    assert round_trip_gates(config_of(round_trip_top_k=0)) == []


class Refuses:
    """A gate that refuses questions with a word."""

    def __init__(self, step: str, word: str) -> None:
        self.step = step
        self._word = word
        self.seen: list[str] = []

    def check(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        self.seen += [candidate.question for candidate in candidates]
        return [
            Rejection(self.step, f"has_{self._word}") if self._word in c.question else None
            for c in candidates
        ]


def test_each_gate_sees_what_the_ones_before_left_and_a_step_is_counted_once(
    make_candidate: Make,
) -> None:
    gates = [Refuses("one", "a"), Refuses("one", "b"), Refuses("two", "c")]
    funnel = Funnel(steps_of(gates))
    left = run_gates(gates, [make_candidate(q) for q in ("xa", "xb", "xc", "x")], funnel)
    assert [candidate.question for candidate in left] == ["x"]
    assert [gate.seen for gate in gates] == [
        ["xa", "xb", "xc", "x"],
        ["xb", "xc", "x"],
        ["xc", "x"],
    ]
    assert funnel.as_json(num_rows=1)["steps"] == [
        {"name": "one", "kept": 2, "dropped": {"has_a": 1, "has_b": 1}},
        {"name": "two", "kept": 1, "dropped": {"has_c": 1}},
    ]


def test_without_gates_everything_passes(make_candidate: Make) -> None:
    candidate = make_candidate()
    assert run_gates([], [candidate], Funnel()) == [candidate]


def test_rejects_do_not_hold_what_a_row_must_not_hold(make_candidate: Make, tmp_path: Path) -> None:
    gates = question_gates(config_of(personal_data=True))
    with Funnel(steps_of(gates), tmp_path) as funnel:
        run_gates(gates, [make_candidate("Who is anna.smith@example.org to Bob?")], funnel)
        funnel.write(num_rows=0)
    (reject,) = pq.read_table(tmp_path / "rejects.parquet").to_pylist()
    assert reject["question"] == "Who is [EMAIL] to Bob?"
    for file in tmp_path.iterdir():
        assert b"anna" not in file.read_bytes()


def test_what_rows_that_were_taken_over_say_is_not_said_again(
    make_candidate: Make, fake_teacher: Any, prompts: PromptLibrary
) -> None:
    candidate = make_candidate()
    config = SynthesizeConfig()
    asked = AskedBefore(config.questions.near_duplicate_threshold)
    asked.extend([candidate.question])
    funnel = Funnel()
    assert run_gates(question_gates(config, asked=asked), [candidate], funnel) == []
    said = SaidBefore()
    said.add("The document gives the hour for Saturdays.")
    gates = answer_gates(config, fake_teacher(None), prompts, {}, said=said)
    assert run_gates(gates, [candidate], funnel) == []
    assert set(funnel.dropped) == {"new.asked_before", "reasoning.same_as_another_row"}


def test_a_judges_calibration_is_in_the_funnels_file(
    make_candidate: Make, fake_teacher: Any, prompts: PromptLibrary
) -> None:
    gates = answer_gates(config_of(judge={}), fake_teacher(lambda _p, _q: "no idea"), prompts, {})
    candidates = [
        make_candidate(f"When is {word}?", reasoning=f"It is about {word}.")
        for word in ("spring", "summer", "autumn", "winter")
    ]
    funnel = Funnel(steps_of(gates))
    assert len(run_gates(gates, candidates, funnel)) == 4
    report = funnel.as_json(num_rows=4)["gates"]["judge"]
    assert (report["is_trusted"], report["accuracy"], report["num_good"]) == (False, 0.0, 4)


@pytest.mark.parametrize("words", ["", "grumpf\n"])
def test_the_users_toxic_words_are_read_from_the_prompts_folder(tmp_path: Path, words: str) -> None:
    (tmp_path / "toxic.txt").write_text(words)
    config = SynthesizeConfig(prompts_path=str(tmp_path))
    assert (toxic_words(config).find("grumpf") is not None) is bool(words)
