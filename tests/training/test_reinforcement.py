"""Reinforcement learning: which questions are asked, and that what is rewarded is learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.config.batches import BatchConfig, cut_batch
from pipeline_lib.errors import ConfigError, InputError, RewardError
from pipeline_lib.models import ResolvedModel
from pipeline_lib.progress import NullProgress
from pipeline_lib.raft.rows import RaftRow, split_file, write_rows
from pipeline_lib.training.defaults import learning_rate_of, num_epochs_of
from pipeline_lib.training.objectives.base import Prepared, PrepareJob
from pipeline_lib.training.objectives.reinforcement import Reinforcement, iter_question_rows
from pipeline_lib.training.plan import TrainingPlan
from pipeline_lib.training.rewards import scoring

from .conftest import make_row
from .training_here import make_trainer, preempt_here, train_here
from .warm_ranks import history, train

pytestmark = [
    # peft reads a property that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]
ONE_RANK: dict[str, Any] = {"engine": {"zero_stage": 0}, "launch": {"num_processes": 1}}
Prepare = Callable[..., tuple[TrainingPlan, Prepared]]


@pytest.fixture
def prepare(tiny_model_path: Path, tmp_path: Path) -> Prepare:
    """Prepares a run on rows: `prepare("name", rows, reinforcement={…}, batch={…})`."""

    def build(
        name: str, rows: list[RaftRow], num_validation: int = 3, **sections: Any
    ) -> tuple[TrainingPlan, Prepared]:
        folder = tmp_path / name
        folder.mkdir()
        write_rows(folder / split_file("train"), rows)
        validation = [make_row(100 + n, "validation") for n in range(num_validation)]
        write_rows(folder / split_file("validation"), validation)
        batch = {"global_batch_size": 4, "micro_batch_size": 2} | sections.pop("batch", {})
        grpo = {"num_generations": 2, "max_new_tokens": 12} | sections.pop("reinforcement", {})
        config = FinetuneConfig.model_validate(
            {"stages": ("grpo",), "batch": batch, "reinforcement": grpo} | sections
        )
        job = PrepareJob(
            config=config,
            dataset=folder,
            base=ResolvedModel("tiny", tiny_model_path, "tiny"),
            run_folder=folder,
            num_ranks=2,
            progress=NullProgress(),
        )
        prepared = Reinforcement().prepare(job)
        plan = TrainingPlan(
            config=config,
            batch=config.batch_arithmetic,
            base_model_path=tiny_model_path,
            files=prepared.files,
            run_folder=folder,
            device="cpu",
            precision="fp32",
            learning_rate=learning_rate_of(config, tiny_model_path),
            num_epochs=num_epochs_of(config, prepared.counts["num_train_rows"]),
        )
        return plan, prepared

    return build


def refusing(number: int) -> RaftRow:
    row = make_row(number)
    changes = {
        "context": row.context[:1],
        "oracle_present": False,
        "target": "refuse",
        "reasoning": (),
        "final_answer": "The documents do not contain the answer.",
    }
    return RaftRow.model_validate(dict(row) | changes)


def as_task(row: RaftRow, task: str) -> RaftRow:
    changes = {"row_id": f"{row.row_id}-{task}", "task": task, "base_row_id": row.row_id}
    return RaftRow.model_validate(dict(row) | changes)


def answering(count: int) -> list[RaftRow]:
    return [make_row(number) for number in range(1, count + 1)]


def test_answers_and_refusals_are_asked_for_and_what_else_there_is_is_counted(
    prepare: Prepare,
) -> None:
    rows = answering(4)
    memorised = RaftRow.model_validate(dict(refusing(5)) | {"target": "memorise"})
    others = [as_task(rows[0], "relevance"), as_task(rows[1], "quotes"), memorised]
    refused = as_task(refusing(6), "refusal")
    plan, prepared = prepare("run", [*rows, *others, refused])
    asked = list(iter_question_rows(plan.files["train"]))
    assert asked == [*rows, refused]
    assert prepared.counts == {"num_train_rows": 5, "num_validation_rows": 3}
    assert prepared.dropped == {"train_other_task": 2, "train_answered_from_memory": 1}
    assert prepared.details["reward_separation"] == {
        "answer": 1.0,
        "format": 1.0,
        "grounded": 1.0,
        "refusal": 1.0,
        "total": 1.0,
        "verbatim": 1.0,
    }


def test_a_prompt_must_leave_room_for_an_answer(prepare: Prepare) -> None:
    rows = [*answering(5), make_row(6, padding="It is old. " * 200)]
    _, prepared = prepare("dropped", rows)
    assert prepared.dropped == {"train_longer_than_max_seq_len": 1}
    with pytest.raises(
        InputError, match=r"The prompt of row row-6 has .* and only 2036 leave room"
    ):
        prepare("error", rows, batch={"too_long": "error"})


def test_distractors_are_left_out_until_there_is_room(prepare: Prepare) -> None:
    row = make_row(6)
    long = row.context[0].model_copy(update={"text": "Rivers flow. " * 200})
    rows = [*answering(4), row.model_copy(update={"context": (long, row.context[1])})]
    plan, prepared = prepare("run", rows, batch={"too_long": "fewer_distractors"})
    assert prepared.counts["num_train_rows"] == 5
    assert [p.role for p in list(iter_question_rows(plan.files["train"]))[-1].context] == ["oracle"]


@pytest.mark.parametrize("num_rows", [0, 3])
def test_fewer_questions_than_a_step_takes_are_refused(prepare: Prepare, num_rows: int) -> None:
    with pytest.raises(InputError, match=rf"has {num_rows} train questions .* at least 4"):
        prepare("run", answering(num_rows))


def test_a_batch_in_tokens_is_refused(prepare: Prepare) -> None:
    batch = {"global_batch_size": None, "global_batch_tokens": 8192}
    with pytest.raises(ConfigError, match="counts its batches in rows"):
        prepare("run", answering(4), batch=batch)


def test_rewards_that_cannot_tell_are_refused_before_anything_is_trained(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scoring.REWARDS, "answer", lambda row, text: 0.5)  # type: ignore[arg-type]
    with pytest.raises(RewardError, match=r"'answer' puts the reference first in only 50\.0%"):
        prepare("run", answering(4))


def share_of_ascii(row: RaftRow, text: str) -> float:
    """Every real reward is beyond a model of random weights, which writes random bytes."""
    return sum(character.isascii() for character in text) / max(len(text), 1)


def test_what_is_rewarded_is_written_more_often(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scoring.REWARDS, "format", share_of_ascii)  # type: ignore[arg-type]
    monkeypatch.setattr("pipeline_lib.training.objectives.reinforcement.check_rewards", no_check)
    plan, _ = prepare(
        "run",
        answering(8),
        batch={"global_batch_size": 2},
        method="full",
        reinforcement={
            "reward_weights": {"format": 1},
            "num_generations": 8,
            "max_steps": 12,
            "learning_rate": 1e-2,
            "schedule": "constant",
            "warmup_fraction": 0,
            "max_new_tokens": 8,
        },
        **ONE_RANK,
    )
    events = train_here(plan, monkeypatch)
    rewards = [event for event in events if event["event"] == "rewards"]
    assert [event["step"] for event in rewards] == list(range(1, 13))
    assert set(rewards[0]["rewards"]) == {"format"}
    assert rewards[0]["total"] == pytest.approx(rewards[0]["rewards"]["format"])
    assert rewards[-1]["total"] > rewards[0]["total"] + 0.2
    validated = [event for event in events if event["event"] == "validation"]
    assert [event["step"] for event in validated] == [0, 12]
    assert validated[-1]["reward"] == pytest.approx(validated[-1]["reward_format"])
    assert validated[-1]["loss"] == pytest.approx(1 - validated[-1]["reward"])
    assert validated[-1]["reward"] > validated[0]["reward"]
    steps = [event for event in events if event["event"] == "step"]
    assert [event["rows"] for event in steps] == [16] * 12  # 2 questions, 8 answers to each


@pytest.mark.parametrize(("step", "beta"), [(2, 0.0), (3, 0.1)])
def test_a_preempted_run_goes_on_as_if_it_had_never_stopped(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, step: int, beta: float
) -> None:
    """The same questions in the same order, the same answers to them, the same losses."""
    monkeypatch.setitem(scoring.REWARDS, "format", share_of_ascii)  # type: ignore[arg-type]
    monkeypatch.setattr("pipeline_lib.training.objectives.reinforcement.check_rewards", no_check)
    settings: dict[str, Any] = {
        "batch": {"global_batch_size": 2},
        "reinforcement": {
            "reward_weights": {"format": 1},
            "num_epochs": 2.0,  # of two steps each
            "learning_rate": 1e-2,
            "max_new_tokens": 8,
            "beta": beta,
        },
    } | ONE_RANK
    plans = {name: prepare(name, answering(4), **settings)[0] for name in ("whole", "told", "on")}
    checkpoint = preempt_here(plans["told"], monkeypatch, step)
    plans["on"] = plans["on"].model_copy(update={"resume_from": checkpoint})
    logs = []
    for name in ("whole", "on"):
        made = make_trainer(plans[name])
        train_here(plans[name], monkeypatch, made)
        logs.append(made.state.log_history)
    for key in ("loss", "grad_norm", "learning_rate", "reward", "eval_reward"):
        never_stopped, gone_on = (
            {entry["step"]: entry[key] for entry in log if key in entry} for log in logs
        )
        assert gone_on == never_stopped, key
        assert 4 in never_stopped


def test_every_order_of_questions_is_told_by_seed_and_epoch_and_dealt_whole_to_the_ranks() -> None:
    from pipeline_lib.training.objectives.reinforcement_trainer import QuestionBatches

    batch = BatchConfig(global_batch_size=4, micro_batch_size=1)

    def asked(epoch: int, rank: int = 0, num_ranks: int = 1, seed: int = 1) -> list[list[int]]:
        arithmetic = cut_batch(batch, num_ranks)
        batches = QuestionBatches(10, arithmetic, num_generations=3, seed=seed, rank=rank)
        batches.set_epoch(epoch)
        made = list(batches)
        assert len(made) == len(batches)
        num_micro = 3 * arithmetic.gradient_accumulation_steps
        assert all(made[i] == made[i - i % num_micro] for i in range(len(made)))
        return made[::num_micro]

    steps = asked(1)
    assert [len(step) for step in steps] == [12, 12]  # 4 questions, 3 answers to each
    assert all(step[i] == step[i - i % 3] for step in steps for i in range(12))
    assert len({number for step in steps for number in step}) == 8  # 2 are too few for a step
    assert asked(1) == steps
    assert asked(0) != steps
    assert asked(1, seed=2) != steps
    halves = [asked(1, rank, num_ranks=2) for rank in (0, 1)]
    assert [first + second for first, second in zip(*halves, strict=True)] == steps


def no_check(*_args: Any, **_kwargs: Any) -> dict[str, Any]:
    return {}


def test_log_probabilities_are_trls_and_prompts_are_as_they_are_trained_elsewhere(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from trl import GRPOTrainer

    from pipeline_lib.raft.rendering import render_row_prompt
    from pipeline_lib.training.examples import encode_exchanges

    monkeypatch.setenv("RANK", "0")
    plan, _ = prepare("run", answering(4), reinforcement={"temperature": 0.7}, **ONE_RANK)
    made = make_trainer(plan)
    ids = torch.randint(3, 259, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0  # prompts are padded on the left, answers on the right
    mask[2, -3:] = 0
    arguments: dict[str, Any] = {"logits_to_keep": 8, "batch_size": 2, "compute_entropy": True}
    ours = made._get_per_token_logps_and_entropies(made.model, ids, mask, **arguments)
    theirs = GRPOTrainer._get_per_token_logps_and_entropies(
        made, made.model, ids, mask, **arguments
    )
    is_answer = mask[:, -8:].bool()
    for own, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(own[is_answer], other[is_answer], rtol=1e-4, atol=1e-5)

    row = make_row(1)
    [(expected, _)] = encode_exchanges(
        [("row", render_row_prompt(row), "yes")], made.processing_class
    )
    found, _, _ = made._tokenize_prompts([made.train_dataset[0]["prompt"]])
    assert found == [expected]


def test_validation_is_greedy_and_leaves_sampling_as_it_was(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("RANK", "0")
    plan, _ = prepare("run", answering(4), **ONE_RANK)
    made = make_trainer(plan)
    made.model_wrapped = made.model
    state = torch.get_rng_state()
    questions = [made._validation[0]]
    assert made._greedy_answers(questions) == made._greedy_answers(questions)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.generation_config.do_sample


@pytest.mark.slow
def test_two_ranks_of_zero_3_train_and_validate(prepare: Prepare) -> None:
    plan, _ = prepare(
        "run",
        answering(9),
        engine={"zero_stage": 3},
        reinforcement={"max_steps": 2, "beta": 0.05, "learning_rate": 1e-2},
    )
    events = train(plan)
    assert [event["step"] for event in events if event["event"] == "rewards"] == [1, 2]
    [start] = [event for event in events if event["event"] == "start"]
    assert start["num_steps"] == 2
    assert history(plan, "eval_loss") == {0: 1.0, 2: 1.0}  # random answers are worth nothing
    adapter = json.loads((plan.run_folder / "export" / "adapter_config.json").read_text())
    assert adapter["peft_type"] == "LORA"
