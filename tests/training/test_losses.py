"""Token losses taken a few rows at a time are those of cross-entropy; so are their gradients."""

from __future__ import annotations

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
