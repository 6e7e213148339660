"""When is measured, by what, and what follows from it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import InputError, NonFiniteLossError, TrainingError
from pipeline_lib.raft.rows import split_file, write_rows
from pipeline_lib.training.diagnosis import Ending
from pipeline_lib.training.heartbeat import read_heartbeats
from pipeline_lib.training.objectives.base import PrepareJob
from pipeline_lib.training.questions import (
    QUESTIONS,
    AnswerCheck,
    measure_answer,
    prepare_questions,
    read_questions,
    write_questions,
)
from pipeline_lib.training.standing import standing

from .conftest import PlanFactory, make_row, prepare_job, random_examples
from .training_here import ONE_RANK, make_trainer, train_here
from .warm_ranks import Ranks, train

ROW = make_row(7)
PASSAGES = ROW.context


def log_of(**values: list[float]) -> list[dict[str, Any]]:
    """A validation at step 0, 10, 20, …, with training losses in between."""
    entries: list[dict[str, Any]] = []
    for number, measured in enumerate(zip(*values.values(), strict=True)):
        names = (f"eval_{name}" for name in values)
        entries += [
            {"step": 10 * number, **dict(zip(names, measured, strict=True))},
            {"step": 10 * number + 1, "loss": 9},
        ]
    return entries


def test_the_first_of_the_lowest_losses_is_the_best() -> None:
    found = standing(log_of(loss=[3.0, 2.0, 1.5, 1.5, 1.75]), "loss")
    assert (found.best_step, found.best_value) == (20, 1.5)
    assert found.num_without_improvement == 2
    assert found.last_step == 40


def test_of_rates_the_highest_is_the_best() -> None:
    found = standing(log_of(quote_rate=[0.0, 0.25, 0.5, 0.25]), "quote_rate")
    assert (found.best_step, found.num_without_improvement) == (20, 1)


def test_of_equal_rates_the_one_with_the_lowest_loss_is_the_best() -> None:
    found = standing(
        log_of(quote_rate=[0.0, 0.0, 0.0, 0.0], loss=[3.0, 2.0, 1.0, 1.5]), "quote_rate"
    )
    assert (found.best_step, found.best_value, found.num_without_improvement) == (20, 0.0, 1)


def test_the_untrained_model_is_never_the_best() -> None:
    found = standing(log_of(loss=[1.0, 2.0, 1.5]), "loss")
    assert (found.best_step, found.num_without_improvement) == (20, 0)
    before = standing(log_of(loss=[1.0]), "loss")
    assert (before.best_step, before.last_step) == (None, 0)


def test_a_measure_that_was_not_taken_is_an_error() -> None:
    with pytest.raises(TrainingError, match="measured eval_loss at step 0, but not answer_f1"):
        standing(log_of(loss=[1.0]), "answer_f1")


def steps_of(events: list[dict[str, Any]], kind: str) -> list[int]:
    return [event["step"] for event in events if event["event"] == kind]


def test_validation_comes_where_it_is_asked_for_and_at_the_end(
    make_plan: PlanFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervised = {"max_steps": 7, "validate_every_steps": 3}
    plan = make_plan("run", random_examples(16), supervised=supervised, **ONE_RANK)
    events = train_here(plan, monkeypatch)
    assert steps_of(events, "validation") == [0, 3, 6, 7]
    assert steps_of(events, "step") == [1, 2, 3, 4, 5, 6, 7]
    steps = [event for event in events if event["event"] == "step"]
    assert all(step["tokens"] > step["rows"] == 4 for step in steps)
    assert all(step["seconds"] > 0 and step["memory_bytes"] > 1e8 for step in steps)
    assert all(step["mfu"] is None for step in steps)  # nobody knows a CPU's peak


def test_training_ends_when_patience_does_and_goes_back_to_the_best(
    make_plan: PlanFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of random tokens nothing can be learned: at a high rate, validation soon gets worse."""
    supervised = {
        "max_steps": 40,
        "validate_every_steps": 2,
        "patience": 2,
        "select_best": True,
        "learning_rate": 0.02,
    }
    checkpoints = {"every_steps": 1000}
    plan = make_plan(
        "run", random_examples(16), supervised=supervised, checkpoints=checkpoints, **ONE_RANK
    )
    trainer = make_trainer(plan)
    events = train_here(plan, monkeypatch, trainer)
    losses = {e["step"]: e["loss"] for e in events if e["event"] == "validation" and e["step"]}
    best = min(losses, key=lambda step: losses[step])
    assert list(losses)[-1] == best + 4 < 40
    found = trainer.standing()
    assert (found.best_step, found.num_without_improvement) == (best, 2)
    assert {"event": "best", "step": best} in events

    assert trainer.validate()["loss"] == pytest.approx(losses[best], abs=1e-6)


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_is_saved(
    make_plan: PlanFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("run", random_examples(8), supervised={"max_steps": 2}, **ONE_RANK)
    trainer = make_trainer(plan)
    trainer.model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteLossError, match=r"gradient norm became .* at step 1"):
        train_here(plan, monkeypatch, trainer)
    assert not list((plan.run_folder / "checkpoints").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_non_finite_loss_stops_all_ranks_and_says_why(
    make_plan: PlanFactory, tiny_model_path: Path, tmp_path: Path
) -> None:
    """Without DeepSpeed (ZeRO 0), where plain DDP joins the ranks."""
    import torch
    from transformers import AutoModelForCausalLM

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_path, broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(broken)
    plan = make_plan("run", random_examples(8), base_model_path=broken, engine={"zero_stage": 0})
    with Ranks(plan) as ranks:
        assert ranks.wait() == [1, 1], ranks.log()
    error = Ending(run_folder=plan.run_folder, returncode=1).diagnose()
    assert isinstance(error, NonFiniteLossError)
    assert "nan at step 1" in error.message
    assert "learning_rate" in str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'It says: <quote doc="2">City 7 is known for its 7 bridges.</quote>\n'
            "<answer>its 7 bridges</answer>",
            (1.0, 1.0),
        ),
        (
            '<quote doc="2">known for its 7</quote> <quote doc="1">known for its 7</quote>'
            "<answer>7 towers</answer>",
            (0.5, 0.4),
        ),
        ("<answer>its 7 bridges</answer>", (0.0, 1.0)),
        ("nothing at all", (0.0, 0.0)),
    ],
)
def test_an_answer_is_measured_by_its_quotes_and_its_words(
    text: str, expected: tuple[float, float]
) -> None:
    assert measure_answer(text, PASSAGES, ROW.final_answer) == pytest.approx(expected)


def job(folder: Path, model: Path, **supervised: Any) -> PrepareJob:
    rows = [make_row(number, "validation") for number in range(5)]
    write_rows(folder / split_file("validation"), rows)
    return prepare_job(folder, model, FinetuneConfig.model_validate({"supervised": supervised}))


def test_the_same_questions_are_asked_whatever_the_rows_order(
    tmp_path: Path, tiny_model_path: Path, tokenizer: Any
) -> None:
    given = job(tmp_path, tiny_model_path, best_by="answer_f1", num_generated=3)
    chosen = read_questions(prepare_questions(given))
    assert len(chosen) == 3
    rows = [make_row(number, "validation") for number in reversed(range(5))]
    write_rows(tmp_path / split_file("validation"), rows)
    assert read_questions(prepare_questions(given)) == chosen
    prompt = tokenizer.decode(chosen[0].prompt_ids)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert chosen[0].final_answer.removeprefix("its ").split()[0] in prompt


def test_without_a_question_that_fits_there_is_nothing_to_be_best_by(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    given = job(tmp_path, tiny_model_path, best_by="quote_rate")
    write_rows(tmp_path / split_file("validation"), [])
    with pytest.raises(InputError, match="best_by 'quote_rate' needs validation questions"):
        prepare_questions(given)


@pytest.mark.slow
def test_ranks_of_zero_3_measure_what_one_process_does(
    make_plan: PlanFactory, tmp_path: Path, tiny_model_path: Path, tokenizer: Any
) -> None:
    """Three questions on two ranks: one rank runs out, and asks the first once more.

    The random model gives no final answer, which agrees with the empty reference of the first.
    """
    from transformers import AutoModelForCausalLM

    given = job(tmp_path, tiny_model_path, best_by="answer_f1", num_generated=3)
    path = prepare_questions(given)
    first, *others = [replace(q, num_target_tokens=4) for q in read_questions(path)]
    write_questions(path, [replace(first, final_answer=""), *others])
    plan = make_plan(
        "run",
        random_examples(8),
        method="full",
        engine={"zero_stage": 3},
        supervised={"max_steps": 1, "best_by": "answer_f1"},
    )
    plan = plan.model_copy(update={"files": plan.files | {QUESTIONS: path}})
    events = train(plan)
    measured = [event for event in events if event["event"] == "validation"]
    assert [event["step"] for event in measured] == [0, 1]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    alone = AnswerCheck(read_questions(path), tokenizer).measure(model, "cpu")
    assert alone == pytest.approx({"quote_rate": 0, "answer_f1": 1 / 3})
    assert {name: measured[0][name] for name in alone} == pytest.approx(alone)
    assert read_heartbeats(plan.run_folder).keys() == {0, 1}
