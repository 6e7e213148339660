"""What a run will take, told from a sample, and nothing of it paid for twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import (
    BudgetConfig,
    PriceConfig,
    SynthesizeConfig,
    TeacherConfig,
)
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import Prompt
from pipeline_lib.raft.estimate import SynthesisEstimate, estimate
from pipeline_lib.raft.gates.judge import CRITERIA

_ANSWER = (
    'The {animal} looks for food. <quote doc="1">{sentence}</quote>\n'
    "<answer>It collects {food}</answer>"
)
PRICED = TeacherConfig(prices=PriceConfig(input_per_million=100, output_per_million=1_000))


def tell(stand: Any, teacher: Any, config: SynthesizeConfig, num: int = 16) -> SynthesisEstimate:
    return estimate(
        stand.ws,
        "demo",
        config,
        stand.corpus_ref,
        stand.index_ref,
        num,
        teacher=teacher,
        searcher=stand.searcher,
    )


def test_a_run_takes_what_was_estimated(stand, teacher, small_config) -> None:
    config = small_config.model_copy(update={"teacher": PRICED})
    told = tell(stand, teacher, config, num=24)
    ledger = stand.ws.artifacts.manifest(stand.synthesize(teacher, config).ref).ledger
    for quantity, spent in (
        (told.requests, ledger["num_completions"]),
        (told.prompt_tokens, ledger["prompt_tokens"]),
        (told.completion_tokens, ledger["completion_tokens"]),
        (told.scored_targets, ledger["num_scored_targets"]),
        (told.cost, ledger["cost"]),
    ):
        assert quantity.low * 0.75 <= spent <= quantity.high * 1.25
    assert told.rows.low <= 12 <= told.rows.high
    assert told.num_rows_missing == 12


def test_what_the_sample_wrote_is_not_asked_for_again(stand, teacher, small_config) -> None:
    tell(stand, teacher, small_config)
    asked, scored = list(teacher.asked), list(teacher.scored)
    teacher.asked.clear()
    teacher.scored.clear()
    stand.synthesize(teacher, small_config)
    assert asked
    assert not set(asked) & set(teacher.asked)
    assert not set(scored) & set(teacher.scored)


def test_going_through_the_sample_twice_asks_for_nothing_twice(
    stand, teacher, small_config
) -> None:
    told = tell(stand, teacher, small_config)
    assert told.sample is not None
    assert told.sample.num_requests == len(teacher.asked) == len(set(teacher.asked))


def test_the_estimate_leaves_no_dataset(stand, teacher, small_config) -> None:
    assert not tell(stand, teacher, small_config).is_made
    assert stand.ws.artifacts.alias("dataset", "demo", "latest") is None
    assert not list(stand.ws.settings.scratch.glob("estimate-*"))


def test_a_dataset_that_exists_is_reported(stand, teacher, small_config) -> None:
    stand.synthesize(teacher, small_config)
    assert tell(stand, teacher, small_config).is_made


def test_an_estimate_made_twice_costs_nothing_and_says_the_same(
    stand, teacher, small_config
) -> None:
    first = tell(stand, teacher, small_config)
    teacher.asked.clear()
    again = tell(stand, teacher, small_config)
    assert teacher.asked == []
    assert again.requests == first.requests
    assert again.sample is not None
    assert again.sample.new_cost == 0
    assert again.hours is None, "scores do not say how long they took"
    assert any("scoring" in note for note in again.notes)


def test_steps_add_up(stand, teacher, small_config) -> None:
    told = tell(stand, teacher, small_config)
    assert {step.step for step in told.steps} >= {"asking", "answering", "reasoning"}
    assert sum(step.requests for step in told.steps) == pytest.approx(told.requests.value)
    assert sum(step.cost for step in told.steps) == pytest.approx(told.cost.value)


def test_a_larger_dataset_takes_more(stand, teacher, small_config) -> None:
    small = tell(stand, teacher, small_config)
    large = tell(stand, teacher, small_config.model_copy(update={"num_questions": 20}), num=16)
    assert large.requests.value > small.requests.value


def test_there_is_no_more_to_ask_about_than_the_corpus_has(stand, teacher, small_config) -> None:
    """24 documents with two sentences each."""
    told = tell(stand, teacher, small_config.model_copy(update={"num_questions": 5_000}))
    assert told.topics.value <= 48
    assert told.rows.value < 5_000


def test_what_is_taken_over_is_not_estimated(stand, teacher, small_config) -> None:
    stand.synthesize(teacher, small_config)
    told = tell(stand, teacher, small_config.model_copy(update={"num_questions": 16}))
    assert told.num_rows_carried == 12
    # 16 are 9 or 10 for training and 2 for validation; test questions are frozen.
    assert told.num_rows_missing == 3
    assert 0 < told.rows.high <= 3


def test_when_everything_is_taken_over_nothing_is_asked(stand, teacher, small_config) -> None:
    stand.synthesize(teacher, small_config)
    teacher.asked.clear()
    changed = small_config.model_copy(update={"min_rows": 4})
    told = tell(stand, teacher, changed)
    assert told.num_rows_carried == 12
    assert told.sample is None
    assert told.requests.value == told.num_rows_missing == 0
    assert teacher.asked == []


def test_a_budget_says_how_far_it_reaches(stand, teacher, small_config) -> None:
    whole = tell(stand, teacher, small_config)
    assert whole.budget_share is None
    tokens = whole.prompt_tokens.value + whole.completion_tokens.value
    for share in (0.8, 4.0):
        budget = BudgetConfig(max_tokens=round(share * tokens))
        told = tell(stand, teacher, small_config.model_copy(update={"budget": budget}), num=4)
        spent = told.prompt_tokens.value + told.completion_tokens.value
        assert told.budget_share == pytest.approx(min(1.0, share * tokens / spent), rel=0.01)


def test_the_small_rounds_of_a_budget_may_do_with_fewer_topics(
    stand, teacher, small_config
) -> None:
    budget = BudgetConfig(max_tokens=1_000_000)
    wide, narrow = (
        tell(stand, teacher, small_config.model_copy(update={"num_questions": 16, **changes}), 24)
        for changes in ({}, {"budget": budget})
    )
    assert narrow.topics.low < wide.topics.low


def test_a_budget_that_ends_within_the_sample_is_an_error(stand, teacher, small_config) -> None:
    config = small_config.model_copy(update={"budget": BudgetConfig(max_tokens=1_000)})
    with pytest.raises(ConfigError, match="within a sample of 16 "):
        tell(stand, teacher, config)


def test_the_users_pairs_are_sampled_too(stand, teacher, small_config, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [
        {
            "question": f"What does animal {number} do at dusk?",
            "answer": chunk.text.split(", ")[1].split(" near")[0],
            "document_id": chunk.document_id,
        }
        for number, chunk in enumerate(stand.corpus.chunks)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    config = small_config.model_copy(update={"qa_path": str(path), "num_questions": 20})
    told = tell(stand, teacher, config, num=5)
    assert told.sample is not None
    assert told.sample.num_topics == 5
    assert told.topics.value == told.rows.value == 20
    num_sampled = len(teacher.asked)
    stand.synthesize(teacher, config)
    assert len(teacher.asked) == len(set(teacher.asked))
    assert told.requests.value == pytest.approx(len(teacher.asked), rel=0.3)
    assert num_sampled < len(teacher.asked)


def test_without_an_endpoint_the_error_says_what_to_set(stand, small_config) -> None:
    config = small_config.model_copy(
        update={"teacher": TeacherConfig(kind="endpoint", model="big")}
    )
    with pytest.raises(ConfigError) as caught:
        tell(stand, None, config)
    assert "RAFTLINE_TEACHER_BASE_URL" in (caught.value.hint or "")


def by_chat(prompt: Prompt) -> str:
    """Asks about animals, answers, and judges by looking whether the answer is in the text."""
    system, user = (message["content"] for message in prompt.chat_messages())
    sentence = user.split("\n")[1]
    food = sentence.split("collects ")[1].split()[0]
    if system.startswith("You check"):
        quoted, final = user.split("Answer to check:")[1].split("Final answer:")
        is_right = food in final and "near the river" in quoted
        return json.dumps(dict.fromkeys(CRITERIA, 5 if is_right else 1) | {"comment": ""})
    animal = sentence.split("If the ")[1].split()[0]
    if "<quote" not in system:
        return f"1. What happens if the {animal} gets hungry at dusk?"
    return _ANSWER.format(animal=animal, sentence=sentence, food=food)


def test_a_judge_is_calibrated_once_however_many_rows_there_are(
    stand, scripted, small_config
) -> None:
    values = small_config.model_dump() | {
        "teacher": {"kind": "endpoint", "model": "big", "concurrency": 4},
        "gates": {"judge": {"num_calibration_rows": 16, "min_accuracy": 0.5}},
        "questions": {"kinds": {"factual": 1}},
    }
    config = SynthesizeConfig.model_validate(values)
    teacher = scripted(by_chat)
    told = tell(stand, teacher, config)
    judged = next(step for step in told.steps if step.step == "judge")
    [asking] = [step for step in told.steps if step.step == "asking"]
    spent = stand.ws.artifacts.manifest(stand.synthesize(teacher, config).ref).ledger
    # A request for each topic's questions, one for each answer, one for each verdict on it; and
    # eight good rows, which are judged anyway, and eight spoilt ones, which are not.
    assert judged.requests == pytest.approx(8 + asking.requests, rel=0.1)
    assert told.requests.value == pytest.approx(spent["num_completions"], rel=0.25)
    assert told.hours is not None
    assert told.notes == ()


def test_a_judge_that_the_sample_cannot_calibrate_is_noted(stand, scripted, small_config) -> None:
    values = small_config.model_dump() | {
        "teacher": {"kind": "endpoint", "model": "big"},
        "gates": {"judge": {}},
    }
    told = tell(stand, scripted(by_chat), SynthesizeConfig.model_validate(values), num=3)
    assert any("judge" in note for note in told.notes)
