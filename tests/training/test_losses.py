"""Which logits are computed for target tokens, and losses of them that equal cross-entropy's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_and_gradients_are_those_of_cross_entropy_in_single_precision(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33 rows, three at a time."""
    import torch
    from torch.nn.functional import cross_entropy

    from pipeline_lib.training import losses

    monkeypatch.setattr(losses, "_WIDENED_ELEMENTS", 1000)
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(33, 301, generator=generator) * 5).to(getattr(torch, dtype))
    targets = torch.randint(301, (33,), generator=generator)
    weights = torch.rand(33, generator=generator)
    ours, reference = (values.clone().requires_grad_() for _ in range(2))
    result = losses.token_losses(ours, targets)
    expected = cross_entropy(reference.float(), targets, reduction="none")
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)
    for some in (result, expected):
        (some * weights).sum().backward()
    torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-5, atol=1e-6)


def test_a_model_that_takes_no_mask_gives_the_same_logits_from_columns_of_all_rows() -> None:
    """As every model did in transformers 5.17: rows that are learned from in other places."""
    import torch

    from pipeline_lib.training.losses import target_logits

    asked: list[int] = []

    class OfColumns(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor) -> SimpleNamespace:
            asked.append(logits_to_keep.numel())
            logits = input_ids[:, logits_to_keep, None] * torch.tensor([1, 10, 100])
            return SimpleNamespace(logits=logits)

    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]]),
        "logits_to_keep": torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0]]).bool(),
    }
    assert target_logits(OfColumns(), inputs).tolist() == [
        [6, 60, 600],
        [7, 70, 700],
        [1, 10, 100],
        [3, 30, 300],
    ]
    assert asked == [3]
