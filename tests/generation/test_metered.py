"""Nothing a teacher wrote is paid for twice, and no budget is passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline_lib.config import BudgetConfig, PriceConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import Completion, GenerationParams, MeteredGenerator, Prompt
from pipeline_lib.generation.completion_store import CompletionStore
from pipeline_lib.generation.metered import MeteredTeacher

PARAMS = GenerationParams(max_new_tokens=5)
PROMPTS = [Prompt.plain(f"p{n}") for n in range(20)]
FREE = PriceConfig()


@pytest.fixture
def metered(open_store: Callable[..., CompletionStore]) -> Callable[..., MeteredTeacher]:
    """A metered teacher whose store is that of every other one of the test."""

    def make(
        teacher: Any,
        budget: BudgetConfig | None = None,
        prices: PriceConfig = FREE,
        **options: Any,
    ) -> MeteredTeacher:
        identity = teacher.model_identity
        store = open_store(identity)
        return MeteredTeacher(
            lambda: teacher, identity, store, prices, budget or BudgetConfig(), **options
        )

    return make


def test_it_is_what_synthesis_wants_of_a_teacher(metered, scripted) -> None:
    teacher: MeteredGenerator = metered(scripted())
    assert teacher.model_identity == "scripted:1"
    assert not teacher.is_exhausted


def test_a_later_run_finds_everything_and_does_not_open_the_teacher(
    metered, open_store, scripted
) -> None:
    first = metered(scripted()).generate(PROMPTS, PARAMS, step="asking")

    def must_not_open():
        raise AssertionError

    again = MeteredTeacher(must_not_open, "scripted:1", open_store(), FREE, BudgetConfig())
    assert again.generate(PROMPTS, PARAMS, step="asking") == first
    assert again.ledger.totals()["num_reused"] == 20


def test_after_a_kill_only_the_rest_is_asked_in_the_same_batches(metered, scripted) -> None:
    killed = scripted(fail_after=11)
    with pytest.raises(KeyboardInterrupt):
        metered(killed).generate(PROMPTS, PARAMS, step="asking")
    assert len(killed.asked) == 8
    resumed = scripted()
    results = metered(resumed).generate(PROMPTS, PARAMS, step="asking")
    assert resumed.asked == PROMPTS[8:]
    assert [c.text for c in results] == [f"echo p{n}" for n in range(20)]


@pytest.mark.parametrize("change", ["model", "prompt", "forced_prefix", "kind", "params", "seed"])
def test_peer_bug_another_model_prompt_or_parameter_is_never_answered_from_the_record(
    metered, scripted, change: str
) -> None:
    """gorilla raft.py: checkpoints are keyed by chunk number and output path only."""
    metered(scripted()).generate([PROMPTS[0]], PARAMS, step="asking")
    teacher = scripted(model_identity="other" if change == "model" else "scripted:1")
    prompt = {
        "prompt": Prompt.plain("p0 "),
        "forced_prefix": Prompt.plain("p0", " "),
        "kind": Prompt.chat([{"role": "user", "content": "p0"}]),
    }.get(change, PROMPTS[0])
    params = {
        "params": replace(PARAMS, temperature=0.1),
        "seed": replace(PARAMS, seed=1),
    }.get(change, PARAMS)
    metered(teacher).generate([prompt], params, step="asking")
    assert teacher.asked == [prompt]


def test_peer_bug_duplicate_chunks_are_asked_about_once(metered, scripted) -> None:
    """gorilla raft.py counts chunks: a duplicate is another chunk, and paid for again."""
    teacher = scripted()
    record = metered(teacher)
    results = record.generate([PROMPTS[0], PROMPTS[1], PROMPTS[0]], PARAMS, step="asking")
    assert [c.text for c in results] == ["echo p0", "echo p1", "echo p0"]
    assert teacher.asked == PROMPTS[:2]
    totals = record.ledger.totals()
    assert totals["num_completions"] == 2
    assert totals["prompt_tokens"] == 20
    assert totals["completion_tokens"] == 4


def test_peer_bug_an_empty_answer_is_kept_too(metered, scripted) -> None:
    """gorilla raft.py: empty results are never checkpointed, so a resume pays again."""
    metered(scripted(lambda _prompt: "")).generate(PROMPTS[:1], PARAMS, step="asking")
    teacher = scripted()
    [completion] = metered(teacher).generate(PROMPTS[:1], PARAMS, step="asking")
    assert completion.text == ""
    assert teacher.asked == []


def test_another_dataset_shares_what_is_equal(metered, scripted) -> None:
    metered(scripted()).generate(PROMPTS[:15], PARAMS, step="asking")
    other = scripted()
    metered(other).generate(PROMPTS[5:], PARAMS, step="answering")
    assert other.asked == PROMPTS[15:]


def test_a_completion_counts_at_the_step_that_asked_first(metered, scripted) -> None:
    record = metered(scripted())
    record.generate(PROMPTS[:2], PARAMS, step="asking")
    record.generate(PROMPTS[:3], PARAMS, step="agreement")
    counts = {line.step: line.total.num_completions for line in record.ledger.lines}
    assert counts == {"asking": 2, "agreement": 1}


def test_where_a_teacher_does_not_say_how_long_it_took_its_batch_is_measured(
    metered, scripted
) -> None:
    def slow(_prompt: Prompt) -> str:
        time.sleep(0.01)
        return "done"

    record = metered(scripted(slow, seconds=0.0))
    results = record.generate(PROMPTS[:8], PARAMS, step="asking")
    assert all(0.01 <= each.seconds < 0.1 for each in results)
    [line] = record.ledger.lines
    assert 0.08 <= line.request_seconds <= line.waiting_seconds


def test_scores_are_kept_too(metered, scripted) -> None:
    teacher = scripted()
    first = metered(teacher).score(PROMPTS[:3], ["a", "b", "c"], step="scoring")
    later = metered(teacher)
    again = later.score(PROMPTS[:4], ["a", "b", "c", "d"], step="scoring")
    assert again[:3] == first
    assert len(teacher.scored) == 4
    assert later.ledger.totals()["num_scored_targets"] == 4
    assert later.ledger.totals()["num_reused"] == 3


def test_progress_says_what_is_done(metered, scripted) -> None:
    told: list[tuple[str, int, int]] = []
    record = metered(scripted(), on_progress=lambda *now: told.append(now))
    record.generate(PROMPTS, PARAMS, step="asking")
    assert told == [("asking", 8, 20), ("asking", 16, 20), ("asking", 20, 20)]


def test_a_teacher_that_cannot_score_is_a_configuration_error(metered) -> None:
    class OnlyGenerates:
        model_identity = "x"

        def generate(self, prompts, params, *, on_completed=None):
            return []

    with pytest.raises(ConfigError, match="cannot score"):
        metered(OnlyGenerates()).score([PROMPTS[0]], ["a"], step="scoring")


# The bound of a plain two-byte prompt is 64 + 2 tokens, and 5 for the output; it costs 10 + 2.


def test_the_budget_ends_where_the_next_bound_does_not_fit(metered, scripted) -> None:
    teacher = scripted()
    record = metered(teacher, BudgetConfig(max_tokens=100))
    reasons = [c.finish_reason for c in record.generate(PROMPTS[:10], PARAMS, step="asking")]
    # 12 n + 71 <= 100 holds for n = 0, 1 and 2 prompts before.
    assert reasons == ["stop"] * 3 + ["budget"] * 7
    assert record.is_exhausted
    assert record.ledger.totals()["prompt_tokens"] == 30


def test_no_call_can_pass_the_cap_however_long_the_answers(metered, scripted) -> None:
    teacher = scripted(lambda _prompt: "one two three four five", prompt_tokens=66)
    record = metered(teacher, BudgetConfig(max_tokens=71 * 7 + 70))
    record.generate(PROMPTS, PARAMS, step="asking")
    assert len(teacher.asked) == 7
    assert teacher.calls == [7]


def test_slices_shrink_towards_the_end(metered, scripted) -> None:
    teacher = scripted()
    metered(teacher, BudgetConfig(max_tokens=200)).generate(PROMPTS, PARAMS, step="asking")
    # 2 * 71 <= 200; then 24 are spent: 2 * 71 <= 176; then 48: 2 * 71 <= 152; then 72: 71 <= 128; …
    assert teacher.calls == [2, 2, 2, 1, 1, 1, 1, 1]
    assert 12 * (len(teacher.asked) - 1) + 71 <= 200 < 12 * len(teacher.asked) + 71


@pytest.mark.parametrize("num_stored", [0, 1, 4, 8, 20])
def test_the_same_budget_ends_at_the_same_prompt_whatever_was_stored(
    metered, scripted, num_stored: int
) -> None:
    if num_stored:
        metered(scripted()).generate(PROMPTS[-num_stored:], PARAMS, step="asking")
    record = metered(scripted(), BudgetConfig(max_tokens=150))
    results = record.generate(PROMPTS, PARAMS, step="asking")
    assert [c.finish_reason for c in results].count("stop") == 7


def test_once_exhausted_nothing_more_is_asked_but_what_was_paid_for_is_given(
    metered, scripted
) -> None:
    teacher = scripted()
    record = metered(teacher, BudgetConfig(max_tokens=100))
    record.generate(PROMPTS, PARAMS, step="asking")
    num_asked = len(teacher.asked)
    later = record.generate([PROMPTS[10], PROMPTS[0]], PARAMS, step="answering")
    assert later == [
        Completion("", 0, 0, "budget"),
        Completion("echo p0", 10, 2, "stop", seconds=0.5),
    ]
    assert len(teacher.asked) == num_asked


def test_a_refused_prompt_is_not_kept_as_if_it_had_been_answered(metered, scripted) -> None:
    metered(scripted(), BudgetConfig(max_tokens=100)).generate(PROMPTS, PARAMS, step="asking")
    results = metered(scripted()).generate(PROMPTS, PARAMS, step="asking")
    assert {c.finish_reason for c in results} == {"stop"}


def test_the_servers_cache_moves_the_cost_but_not_the_end_of_the_budget(metered, scripted) -> None:
    prices = PriceConfig(input_per_million=1, cached_input_per_million=0.1, output_per_million=2)
    budget = BudgetConfig(max_cost=0.0005)
    runs = []
    for identity, cached in (("cold", 0), ("warm", 10)):
        teacher = scripted(model_identity=identity, cached_tokens=cached)
        record = metered(teacher, budget, prices)
        record.generate(PROMPTS * 3, PARAMS, step="asking")
        runs.append((len(teacher.asked), record.ledger.totals()["cost"]))
    (num_cold, cold), (num_warm, warm) = runs
    assert num_cold == num_warm
    assert warm < cold <= 0.0005


def test_scores_cost_nothing(metered, scripted) -> None:
    record = metered(scripted(), BudgetConfig(max_tokens=1))
    assert record.generate(PROMPTS[:1], PARAMS, step="asking")[0].finish_reason == "budget"
    assert len(record.score(PROMPTS[:1], ["a b"], step="scoring")) == 1


def test_starting_over_counts_anew_what_was_paid_for_already(metered, scripted) -> None:
    teacher = scripted()
    record = metered(teacher, BudgetConfig(max_tokens=100))
    record.generate(PROMPTS, PARAMS, step="asking")
    assert record.is_exhausted
    record.start_over(BudgetConfig())
    assert not record.is_exhausted
    record.generate(PROMPTS[:3], PARAMS, step="again")
    assert len(teacher.asked) == 3
    totals = record.ledger.totals()
    assert totals["num_completions"] == totals["num_reused"] == 3
