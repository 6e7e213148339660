"""Padding without a mask and label-only logits change nothing but the cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.training.collator import collate


def test_the_worked_example_of_the_docstring() -> None:
    batch = collate(
        [
            {"input_ids": [5, 6, 7, 8], "num_prompt_tokens": 2},
            {"input_ids": [9, 10], "num_prompt_tokens": 1},
        ]
    )
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7, 8], [9, 10, 0, 0]],
        "logits_to_keep": [[False, True, True, False], [True, False, False, False]],
        "shift_labels": [7, 8, 10],
        "labels": [7, 8, 10],
    }


ROWS = [
    {"input_ids": [5, 6, 7, 8, 9, 10, 11], "num_prompt_tokens": 4},
    {"input_ids": [20, 21, 22, 23], "num_prompt_tokens": 1},
    {"input_ids": [30, 31, 32, 33, 34], "num_prompt_tokens": 4},
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loss_and_gradients_equal_single_rows_with_all_logits(
    tiny_model_path: Path, attention: str
) -> None:
    """The plain way: one row at a time, every logit, -100 on the prompt, sums over all rows."""
    batch_loss, batch = _loss_and_gradients(
        tiny_model_path, attention, lambda model: model(**collate(ROWS), num_items_in_batch=8).loss
    )
    plain_loss, plain = _loss_and_gradients(tiny_model_path, attention, _plain_loss)
    import torch

    torch.testing.assert_close(batch_loss, plain_loss, rtol=1e-6, atol=1e-6)
    for name, gradient in plain.items():
        torch.testing.assert_close(batch[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_row_does_not_see_its_neighbours_or_its_padding(tiny_model_path: Path) -> None:
    """Changing the first row leaves the second row's loss as it was."""
    import torch

    model = _model(tiny_model_path, "sdpa")
    alone = collate([ROWS[1]])
    with torch.no_grad():
        expected = model(**alone, num_items_in_batch=1).loss
        for first in ([5, 6, 7], [50, 60, 70, 80, 90, 100]):
            batch = collate([{"input_ids": first, "num_prompt_tokens": len(first)}, ROWS[1]])
            loss = model(**batch, num_items_in_batch=1).loss
            torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


def _plain_loss(model: Any) -> Any:
    import torch

    total = torch.zeros(())
    for row in ROWS:
        ids = torch.tensor([row["input_ids"]])
        labels = ids.clone()
        labels[:, : row["num_prompt_tokens"]] = -100
        logits = model(input_ids=ids).logits[:, :-1]
        total = total + torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )
    return total / 8  # tokens after the prompts: 3 + 3 + 1, and one more to tell sums from means


def _loss_and_gradients(path: Path, attention: str, compute: Any) -> Any:
    model = _model(path, attention)
    loss = compute(model)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def _model(path: Path, attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation=attention
    )
    model.config.use_cache = False
    return model
