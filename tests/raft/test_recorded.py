"""Nothing a teacher wrote is paid for twice."""

from __future__ import annotations

import pytest

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.raft.recorded import RecordedTeacher

PARAMS = GenerationParams(max_new_tokens=5)
PROMPTS = [Prompt.plain(f"p{n}") for n in range(20)]


def echo(prompt: Prompt) -> str:
    return f"echo {prompt.text}"


def recorded(teacher, partial: PartialWork) -> RecordedTeacher:
    return RecordedTeacher(lambda: teacher, teacher.model_identity, partial)


def test_a_later_run_finds_everything_and_does_not_open_the_teacher(
    scripted, partial: PartialWork
) -> None:
    first = recorded(scripted(echo), partial).generate(PROMPTS, PARAMS)

    def must_not_open():
        raise AssertionError

    again = RecordedTeacher(must_not_open, "scripted:1", partial)
    assert again.generate(PROMPTS, PARAMS) == first
    assert again.ledger.num_reused == 20


def test_after_a_kill_only_the_rest_is_asked_in_the_same_batches(
    scripted, partial: PartialWork
) -> None:
    killed = scripted(echo, fail_after=11)
    with pytest.raises(KeyboardInterrupt):
        recorded(killed, partial).generate(PROMPTS, PARAMS)
    assert len(killed.asked) == 8
    resumed = scripted(echo)
    results = recorded(resumed, partial).generate(PROMPTS, PARAMS)
    assert resumed.asked == PROMPTS[8:]
    assert [c.text for c in results] == [f"echo p{n}" for n in range(20)]


@pytest.mark.parametrize("change", ["model", "prompt", "params", "forced_prefix", "kind"])
def test_peer_bug_another_model_prompt_or_parameter_is_never_answered_from_the_record(
    scripted, partial: PartialWork, change: str
) -> None:
    """gorilla raft.py: checkpoints are keyed by chunk number and output path only."""
    recorded(scripted(echo), partial).generate([PROMPTS[0]], PARAMS)
    teacher = scripted(echo, model_identity="other" if change == "model" else "scripted:1")
    prompt, params = PROMPTS[0], PARAMS
    if change == "prompt":
        prompt = Prompt.plain("p0 ")
    if change == "forced_prefix":
        prompt = Prompt.plain("p0", " ")
    if change == "kind":
        prompt = Prompt.chat([{"role": "user", "content": "p0"}])
    if change == "params":
        params = GenerationParams(max_new_tokens=5, temperature=0.1)
    recorded(teacher, partial).generate([prompt], params)
    assert teacher.asked == [prompt]


def test_equal_prompts_are_asked_once_and_counted_once(scripted, partial: PartialWork) -> None:
    teacher = scripted(echo)
    record = recorded(teacher, partial)
    results = record.generate([PROMPTS[0], PROMPTS[1], PROMPTS[0]], PARAMS)
    assert [c.text for c in results] == ["echo p0", "echo p1", "echo p0"]
    assert teacher.asked == PROMPTS[:2]
    assert record.ledger.num_completions == 2
    assert record.ledger.prompt_tokens == 20
    assert record.ledger.completion_tokens == 4


def test_scores_are_kept_too(scripted, partial: PartialWork) -> None:
    teacher = scripted(echo)
    first = recorded(teacher, partial).score(PROMPTS[:3], ["a", "b", "c"])
    again = recorded(teacher, partial).score(PROMPTS[:4], ["a", "b", "c", "d"])
    assert again[:3] == first
    assert len(teacher.scored) == 4


def test_progress_says_what_is_done(scripted, partial: PartialWork) -> None:
    told: list[tuple[str, int, int]] = []
    record = RecordedTeacher(
        lambda: scripted(echo), "x", partial, lambda *told_now: told.append(told_now)
    )
    record.generate(PROMPTS, PARAMS, what="asking")
    assert told == [("asking", 8, 20), ("asking", 16, 20), ("asking", 20, 20)]


def test_a_teacher_that_cannot_score_is_a_configuration_error(partial: PartialWork) -> None:
    class OnlyGenerates:
        model_identity = "x"

        def generate(self, prompts, params, *, on_completed=None):
            return []

    with pytest.raises(ConfigError, match="cannot score"):
        recorded(OnlyGenerates(), partial).score([PROMPTS[0]], ["a"])
