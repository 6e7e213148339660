"""A step is the same however it is cut; every task is learned, and has a curve of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import InputError
from pipeline_lib.raft.rows import RaftRow, Split, split_file, write_rows
from pipeline_lib.training.examples import Example, ExampleFile
from pipeline_lib.training.objectives.base import PrepareJob
from pipeline_lib.training.objectives.supervised import Supervised
from pipeline_lib.training.plan import HISTORY_FILE, TrainingPlan

from .conftest import PlanFactory, make_row, prepare_job, random_examples
from .warm_ranks import train

CUTS: dict[str, dict[str, Any]] = {
    "DDP, one rank, one micro batch, padded": {
        "engine": {"zero_stage": 0},
        "launch": {"num_processes": 1},
        "batch": {"global_batch_size": 8, "micro_batch_size": 8},
        "layout": "padded",
    },
    "ZeRO 2, two ranks, two micro batches, a context shared": {
        "engine": {"zero_stage": 2},
        "batch": {"global_batch_size": 8, "micro_batch_size": 2},
    },
    "ZeRO 3, two ranks, two micro batches of tokens, checkpointed": {
        "engine": {"zero_stage": 3, "gradient_checkpointing": "on"},
        "batch": {
            "global_batch_size": None,
            "global_batch_tokens": 600,
            "micro_batch_tokens": 150,
            "max_seq_len": 150,
        },
    },
}


def mixed_rows() -> list[Example]:
    """Two tasks that count differently, a context of two questions, a row that is learned whole."""
    rng = random.Random(3)
    context = tuple(rng.randrange(3, 259) for _ in range(50))
    asked = [
        Example(f"asked-{n}", (*context, *range(n, n + 9)), 54, "refusal", 0.25, "context")
        for n in (10, 30)
    ]
    whole = Example("whole", tuple(rng.randrange(3, 259) for _ in range(30)), 1)
    return [*random_examples(5), *asked, whole]


@pytest.fixture(params=CUTS)
def trained(
    request: pytest.FixtureRequest, make_plan: PlanFactory
) -> tuple[TrainingPlan, dict[int, dict[str, Any]]]:
    """One step of full fine-tuning, and the log's entries by step."""
    plan = make_plan(
        "run", mixed_rows(), method="full", supervised={"max_steps": 1}, **CUTS[request.param]
    )
    train(plan)
    lines = (plan.run_folder / HISTORY_FILE).read_text().splitlines()
    log: dict[int, dict[str, Any]] = {}
    for entry in map(json.loads, lines):
        log.setdefault(entry["step"], {}).update(entry)
    return plan, log


@pytest.mark.slow
def test_however_a_step_is_cut_it_is_the_step_of_one_big_batch(
    trained: tuple[TrainingPlan, dict[int, dict[str, Any]]], tiny_model_path: Path
) -> None:
    """Independent: transformers alone, a row at a time, every logit."""
    import torch

    plan, log = trained
    rows = mixed_rows()
    model, losses = _losses_of(tiny_model_path, rows)
    weights = [row.weight * row.num_loss_tokens for row in rows]
    loss = sum(loss * w for loss, w in zip(losses, weights, strict=True)) / sum(weights)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert log[1]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert log[1]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    for task in ("answer", "refusal"):
        assert log[1][f"loss_{task}"] == pytest.approx(_mean(rows, losses, task), rel=1e-5)
    assert log[1]["rows"] == 8

    validation = list(ExampleFile(plan.files["validation"]))
    _, losses = _losses_of(tiny_model_path, validation)
    assert log[0]["eval_loss"] == pytest.approx(_mean(validation, losses, "answer"), rel=1e-5)


def test_every_task_of_the_dataset_is_learned_and_counted(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    answer = make_row(0)
    relevance = RaftRow.model_validate(
        dict(answer) | {"task": "relevance", "base_row_id": "row-0", "reasoning": ()}
    )
    long = make_row(1, padding="long " * 500)
    job = _job(tiny_model_path, tmp_path, {"train": [answer, relevance, long]})
    prepared = Supervised().prepare(job)
    assert prepared.counts == {
        "num_train_rows": 2,
        "num_train_rows_answer": 1,
        "num_train_rows_relevance": 1,
        "num_validation_rows": 1,
    }
    assert prepared.dropped == {"train_longer_than_max_seq_len": 1}
    examples = ExampleFile(prepared.files["train"])
    assert [(e.row_id, e.task, e.weight) for e in examples] == [
        ("row-0", "answer", 1.0),
        ("row-0", "relevance", 0.5),
    ]


def test_a_dataset_of_which_nothing_fits_is_refused(tiny_model_path: Path, tmp_path: Path) -> None:
    long = make_row(1, padding="long " * 500)
    with pytest.raises(
        InputError, match="None of the 1 train rows fits into 1500 tokens; the shortest has 3136"
    ):
        Supervised().prepare(_job(tiny_model_path, tmp_path, {"train": [long]}))


def _job(model: Path, folder: Path, rows: dict[Split, list[RaftRow]]) -> PrepareJob:
    for split in ("train", "validation"):
        write_rows(folder / split_file(split), rows.get(split, [make_row(9)]))
    config = FinetuneConfig.model_validate(
        {"batch": {"max_seq_len": 1500}, "supervised": {"task_weights": {"relevance": 0.5}}}
    )
    return prepare_job(folder, model, config)


def _losses_of(path: Path, rows: Sequence[Example]) -> tuple[Any, list[Any]]:
    """Mean loss per target token of each row, by the model's own loss function."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    losses = []
    for row in rows:
        labels = [-100] * row.num_prompt_tokens + list(row.input_ids[row.num_prompt_tokens :])
        ids = torch.tensor([list(row.input_ids)])
        losses.append(model(input_ids=ids, labels=torch.tensor([labels])).loss)
    return model, losses


def _mean(rows: Sequence[Example], losses: Sequence[Any], task: str) -> float:
    counted = [
        (loss.item() * row.num_loss_tokens, row.num_loss_tokens)
        for row, loss in zip(rows, losses, strict=True)
        if row.task == task
    ]
    return sum(total for total, _ in counted) / sum(count for _, count in counted)
