"""The negative log-likelihood of single tokens, without copies of the logits in single precision.

A vocabulary is large: in bf16, the logits of 300 tokens of 150,000 are 90 MB, and cross-entropy as
usually written makes three more tensors of them in fp32. Here a few rows at a time are widened,
used and forgotten; what remains for the backward pass are the logits themselves.
"""

from __future__ import annotations

from typing import Any

import torch

_WIDENED_ELEMENTS = 1 << 22
"""Logits that are in fp32 at a time."""


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        normalizers = torch.cat([part.float().logsumexp(-1) for part in _parts(logits)])
        ctx.save_for_backward(logits, targets, normalizers)
        return normalizers - logits.gather(-1, targets[:, None])[:, 0].float()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, normalizers = ctx.saved_tensors
        result = torch.empty_like(logits)
        start = 0
        for part in _parts(logits):
            rows = slice(start, start + len(part))
            widened = part.float().sub_(normalizers[rows, None]).exp_()
            widened[torch.arange(len(part), device=part.device), targets[rows]] -= 1
            result[rows] = widened.mul_(gradient[rows, None])
            start += len(part)
        return result, None


def _parts(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.split(logits, max(1, _WIDENED_ELEMENTS // logits.shape[-1]))


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihoods (nats) of `targets[N]` under `logits[N, V]`: `[N]`, fp32.

    As `cross_entropy(logits.float(), targets, reduction="none")`, and so are its gradients.
    """
    losses: torch.Tensor = _TokenLosses.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses
