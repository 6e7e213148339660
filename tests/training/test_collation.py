"""Laying rows end to end, sharing contexts and skipping logits change nothing but the cost."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.training.collation import PackedCollator, PaddedCollator
from pipeline_lib.training.examples import Example
from pipeline_lib.training.prefixes import MIN_SHARED_TOKENS

from .conftest import enable_checkpointing, random_examples

TASKS = ("answer", "refusal")
TWO = [Example("a", (5, 6, 7, 8), 2), Example("b", (9, 10), 1, task="refusal", weight=0.5)]


def test_the_worked_example_of_the_packed_layout() -> None:
    batch = PackedCollator(TASKS, share_contexts=True)(TWO)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch["logits_to_keep"].tolist() == [1, 2, 4]
    assert (batch["segments"].lengths, batch["segments"].parents) == ((4, 2), (-1, -1))
    assert batch["targets"].ids.tolist() == [7, 8, 10]
    assert batch["targets"].weights.tolist() == [1, 1, 0.5]
    assert batch["targets"].tasks.tolist() == [0, 0, 1]
    assert batch["targets"].num_rows == 2


def test_the_worked_example_of_the_padded_layout() -> None:
    batch = PaddedCollator(TASKS)(TWO)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch["logits_to_keep"].tolist() == [
        [False, True, True, False],
        [True, False, False, False],
    ]
    assert batch["targets"].ids.tolist() == [7, 8, 10]


def test_what_rows_share_is_there_once_and_each_goes_on_from_it() -> None:
    prefix = tuple(range(100, 100 + MIN_SHARED_TOKENS))
    rows = [
        Example("a", (*prefix, 1, 2, 3), len(prefix) + 2),
        Example("b", (50, 51), 1),
        Example("c", (*prefix, 4, 5), len(prefix) + 1),
    ]
    batch = PackedCollator(TASKS, share_contexts=True)(rows)
    n = len(prefix)
    assert batch["input_ids"].tolist() == [[*prefix, 1, 2, 3, 4, 5, 50, 51]]
    assert batch["position_ids"].tolist() == [[*range(n), n, n + 1, n + 2, n, n + 1, 0, 1]]
    assert batch["segments"].lengths == (n, 3, 2, 2)
    assert batch["segments"].parents == (-1, 0, 0, -1)
    assert batch["logits_to_keep"].tolist() == [n + 1, n + 5, n + 3], "in the order of the rows"
    assert batch["targets"].ids.tolist() == [3, 51, 5]


def test_nothing_is_shared_unless_asked_for_or_where_it_is_not_worth_it() -> None:
    short = tuple(range(MIN_SHARED_TOKENS - 1))
    rows = [Example(name, (*short, 200, 201), len(short) + 1) for name in "ab"]
    longer = [Example(row.row_id, (7, *row.input_ids), len(short) + 2) for row in rows]
    for share_contexts, some in ((True, rows), (False, longer)):
        batch = PackedCollator(TASKS, share_contexts=share_contexts)(some)
        assert set(batch["segments"].parents) == {-1}


@pytest.mark.parametrize(
    "collate", [PackedCollator(TASKS, share_contexts=True), PaddedCollator(TASKS)]
)
def test_an_empty_micro_batch_is_a_pass_of_which_nothing_is_learned(
    tiny_model_path: Path, collate: Any
) -> None:
    loss, gradients = _loss_and_gradients(tiny_model_path, collate, [[], random_examples(1)])
    alone, expected = _loss_and_gradients(tiny_model_path, collate, [random_examples(1)])
    assert loss == alone
    _assert_close(gradients, expected, tolerance=0)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_loss_and_gradients_equal_single_rows_with_all_logits(
    tiny_model_path: Path, layout: str
) -> None:
    """Independent: transformers' own loss, a row at a time, every logit, -100 on the prompt."""
    import torch

    rows = random_examples(5)
    collate = _collator(layout)
    loss, gradients = _loss_and_gradients(tiny_model_path, collate, [rows[:3], rows[3:]])

    model = _model(tiny_model_path, "sdpa")
    total = torch.zeros(())
    for row in rows:
        labels = [-100] * row.num_prompt_tokens + list(row.input_ids[row.num_prompt_tokens :])
        output = model(input_ids=_row(row.input_ids), labels=_row(labels))
        total = total + output.loss * row.num_loss_tokens
    total = total / sum(row.num_loss_tokens for row in rows)
    total.backward()
    torch.testing.assert_close(loss, total.detach(), rtol=1e-5, atol=1e-6)
    _assert_close(gradients, _gradients(model), tolerance=1e-5)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_what_is_shared_has_the_gradients_of_separate_rows(
    tiny_model_path: Path, is_checkpointed: bool
) -> None:
    """Four rows with one instruction, two of them about one context."""
    instruction = _tokens(40, seed=1)
    about_one = _questions_about_one_context(context=60, questions=(20, 9))
    others = random_examples(2)
    rows = [
        replace(row, input_ids=(*instruction, *row.input_ids), num_prompt_tokens=40 + prompt)
        for row in (about_one[0], others[0], about_one[1], others[1])
        for prompt in [row.num_prompt_tokens]
    ]
    collate = PackedCollator(TASKS, share_contexts=True)
    assert collate(rows)["segments"].parents == (-1, 0, 1, 1, 0, 0)
    together, alone = (
        _loss_and_gradients(tiny_model_path, collate, batches, is_checkpointed=is_checkpointed)
        for batches in ([rows], [[row] for row in rows])
    )
    assert together[0].item() == pytest.approx(alone[0].item(), abs=1e-6)
    _assert_close(together[1], alone[1], tolerance=1e-6)


def test_four_questions_a_context_take_a_fraction_of_the_tokens() -> None:
    """1000 + 4 x 100 instead of 4 x 1100: 3.1 times fewer; at least 2.5 is what is asked for."""
    rows = _questions_about_one_context(context=1000, questions=(100, 90, 110, 100))
    shared, separate = (
        PackedCollator(TASKS, share_contexts=shares)(rows)["input_ids"].numel()
        for shares in (True, False)
    )
    assert (shared, separate) == (1400, 4400)


def test_a_row_does_not_see_its_neighbours(tiny_model_path: Path) -> None:
    import torch

    row = random_examples(1)[0]
    collate = PackedCollator(TASKS, share_contexts=True)
    model = _model(tiny_model_path, "segments")
    with torch.no_grad():
        alone = _logits(model, collate([row]))
        for before in random_examples(3, seed=5):
            both = _logits(model, collate([before, row]))
            torch.testing.assert_close(both[before.num_loss_tokens :], alone, rtol=1e-5, atol=1e-5)


def test_selected_logits_and_shifted_labels_give_the_loss_of_all_logits(
    tiny_model_path: Path,
) -> None:
    """What the layout rests on in transformers, in a form that old versions know too."""
    import torch

    model = _model(tiny_model_path, "sdpa")
    ids = _row(random_examples(1)[0].input_ids)
    kept = torch.arange(10, ids.shape[1] - 1)
    labels = ids.clone()
    labels[:, :11] = -100
    targets = ids[0, kept + 1]
    selected = model(input_ids=ids, logits_to_keep=kept)
    assert selected.logits.shape[:2] == (1, len(kept))
    with_labels = model(
        input_ids=ids, logits_to_keep=kept, labels=targets[None], shift_labels=targets[None]
    )
    torch.testing.assert_close(with_labels.loss, model(input_ids=ids, labels=labels).loss)


def _questions_about_one_context(context: int, questions: Sequence[int]) -> list[Example]:
    prefix = _tokens(context, seed=0)
    rows = []
    for number, length in enumerate(questions):
        # The first token of each differs, so that no more than the context is shared.
        tail = (number + 3, *_tokens(length - 1, seed=number + 1))
        rows.append(Example(str(number), (*prefix, *tail), context + length // 2))
    return rows


def _tokens(number: int, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, 259) for _ in range(number))


def _collator(layout: str) -> Any:
    return (
        PaddedCollator(TASKS) if layout == "padded" else PackedCollator(TASKS, share_contexts=True)
    )


def _model(path: Path, attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline_lib.training.attention import register_segment_attention

    register_segment_attention()
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation=attention
    )
    model.config.use_cache = False
    return model


def _row(ids: Sequence[int]) -> Any:
    import torch

    return torch.tensor([list(ids)])


def _logits(model: Any, batch: dict[str, Any]) -> Any:
    from pipeline_lib.training.losses import target_logits

    return target_logits(model, {name: batch[name] for name in batch if name != "targets"})


def _loss_and_gradients(
    path: Path,
    collate: Callable[[Sequence[Example]], dict[str, Any]],
    micro_batches: Sequence[Sequence[Example]],
    is_checkpointed: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Of the mean over all micro batches' target tokens."""
    from pipeline_lib.training.losses import token_losses

    model = _model(path, "segments" if isinstance(collate, PackedCollator) else "sdpa")
    if is_checkpointed:
        enable_checkpointing(model)
        model.train()
    batches = [collate(examples) for examples in micro_batches]
    weight = sum(batch["targets"].weights.sum() for batch in batches)
    losses = [
        (token_losses(_logits(model, batch), batch["targets"].ids) * batch["targets"].weights).sum()
        for batch in batches
    ]
    loss = sum(losses) / weight
    loss.backward()
    return loss.detach().float(), _gradients(model)


def _gradients(model: Any) -> dict[str, Any]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def _assert_close(gradients: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    import torch

    for name, gradient in expected.items():
        torch.testing.assert_close(
            gradients[name], gradient, rtol=tolerance, atol=tolerance, msg=name
        )
