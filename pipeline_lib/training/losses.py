"""Logits of target tokens, and their negative log-likelihood without copies in single precision.

A vocabulary is large: in bf16, the logits of 300 tokens of 150,000 are 90 MB, and cross-entropy as
usually written makes three more tensors of them in fp32. Here a few rows at a time are widened,
used and forgotten; what remains for the backward pass are the logits themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
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


def target_logits(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """What the model says at the positions that a collator wants to learn from: `[N, V]`.

    Args:
        model: as wrapped for training.
        inputs: of a collator, without its targets.
    """
    keep: torch.Tensor = inputs["logits_to_keep"]
    if keep.ndim == 1 or _selects_by_mask(model):
        logits: torch.Tensor = model(**inputs).logits
        return logits.view(-1, logits.shape[-1])
    columns = keep.any(dim=0).nonzero()[:, 0]
    of_any_row: torch.Tensor = model(**{**inputs, "logits_to_keep": columns}).logits
    return of_any_row[keep[:, columns]]


def _selects_by_mask(model: Any) -> bool:
    """Whether a model takes `logits_to_keep[B, T]`, row by row, and not only columns of all rows.

    The architectures that do share a function of transformers, which came with 5.21; a few still
    do not. They compute more logits than are learned from.
    """
    while hasattr(model, "module"):  # DDP's and DeepSpeed's wrappers
        model = model.module
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return hasattr(sys.modules[type(model).__module__], "slice_logits_to_keep")


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihoods (nats) of `targets[N]` under `logits[N, V]`: `[N]`, fp32.

    As `cross_entropy(logits.float(), targets, reduction="none")`, and so are its gradients.
    """
    losses: torch.Tensor = _TokenLosses.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses
