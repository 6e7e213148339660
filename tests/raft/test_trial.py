"""Measuring what each part of a sample takes, and what a run takes once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline_lib.config import BudgetConfig, PriceConfig, SynthesizeConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.completion_store import CompletionStore
from pipeline_lib.generation.metered import MeteredTeacher
from pipeline_lib.raft.extrapolation import Plan
from pipeline_lib.raft.funnel import Funnel
from pipeline_lib.raft.trial import TopicTrial, Trial, measure

PARAMS = GenerationParams(max_new_tokens=5)
PRICES = PriceConfig(input_per_million=1e6, output_per_million=0)


class Steps:
    """What a trial needs of `Synthesis`."""

    def __init__(self) -> None:
        self.funnel = Funnel(("question", "wanted"))


class NumberTrial(Trial[int]):
    """Goes through numbers: n prompts for number n, one of them the same for all; odd ones give a
    row. A batch of more than two numbers is calibrated for first."""

    def __init__(self, teacher: MeteredTeacher, sample: Sequence[int]) -> None:
        self.sample = sample
        self.num_carried = 0
        self.parts = Steps()  # type: ignore[assignment]
        self._teacher = teacher
        self._is_calibrated = False

    def go_through(self, items: Sequence[int]) -> int:
        if len(items) > 2 and not self._is_calibrated:
            self._is_calibrated = True
            self._ask("judge", "calibration", 7)
        for item in items:
            self._ask("asking", "common", 1)
            self._ask("answering", f"about {item}", item - 1)
            self.parts.funnel.keep("question")
        return sum(item % 2 for item in items)

    def plan(self) -> Plan:
        raise NotImplementedError

    def count(self, limit: int) -> int:
        raise NotImplementedError

    def _ask(self, step: str, text: str, count: int) -> None:
        prompts = [Prompt.plain(f"{text} {number}") for number in range(count)]
        self._teacher.generate(prompts, PARAMS, step=step)


@pytest.fixture
def metered(workspace: Any, teacher: Any) -> Callable[..., MeteredTeacher]:
    """Over a store of its own."""
    teacher.script = lambda prompt: "x"
    settings, objects = workspace.settings, workspace.artifacts.objects
    store = CompletionStore(objects, settings.completion_cache, teacher.model_identity)
    yield lambda budget: MeteredTeacher(
        lambda: teacher, teacher.model_identity, store, PRICES, budget
    )
    store.close()


def test_each_item_takes_what_it_asked_for_and_a_run_takes_the_rest_once(metered, teacher) -> None:
    trial = NumberTrial(asked := metered(BudgetConfig()), [3, 1, 4])
    sample, ledger = measure(trial, asked, BudgetConfig())
    assert sample.rows.tolist() == [1, 1, 0]
    # What is common is counted where it is first asked for.
    assert sample.measures["asking/requests"].tolist() == [1, 0, 0]
    assert sample.measures["answering/requests"].tolist() == [2, 0, 3]
    assert sample.measures["answering/prompt_tokens"].tolist() == [20, 0, 30]
    assert sample.measures["answering/cost"].tolist() == pytest.approx([20, 0, 30])
    assert sample.fixed["judge/requests"] == 7
    assert sample.fixed["asking/requests"] == sample.fixed["answering/requests"] == 0
    assert ledger.totals()["num_completions"] == 13
    assert len(teacher.asked) == 13, "the second time nothing is asked"


def test_the_funnel_is_that_of_the_first_time(metered) -> None:
    trial = NumberTrial(asked := metered(BudgetConfig()), [3, 1, 4])
    measure(trial, asked, BudgetConfig())
    assert trial.funnel_steps == [{"name": "question", "kept": 3, "dropped": {}}]


def test_a_budget_that_ends_within_the_sample_is_an_error(metered) -> None:
    budget = BudgetConfig(max_tokens=150)
    trial = NumberTrial(asked := metered(budget), [3, 1, 4])
    with pytest.raises(ConfigError, match="within a sample of 3"):
        measure(trial, asked, budget)


def test_the_plan_of_topics_holds_the_splits_and_what_a_topic_takes_of_the_budget() -> None:
    parts = SimpleNamespace(
        question_gates=[],
        answer_gates=[],
        rows=SimpleNamespace(num_rows=5),
        teacher=SimpleNamespace(spent_share=0.08),
        writer=SimpleNamespace(topics_per_row=3.0, num_candidates=lambda _topic: 2),
    )
    beginning = SimpleNamespace(
        missing={"train": 8, "validation": 0, "test": 2},
        queues={split: iter(range(50)) for split in ("train", "validation", "test")},
    )
    maker: Any = SimpleNamespace(parts=lambda: parts, begin=lambda _parts: beginning)
    trial = TopicTrial(maker, SynthesizeConfig(max_candidates_per_question=4), 4)
    assert len(trial.sample) == 4
    assert trial.num_carried == 5
    assert trial.plan() == Plan(
        rows_wanted=(8, 2), topics_per_row=3.0, max_topics=20, budget_per_topic=0.02
    )
