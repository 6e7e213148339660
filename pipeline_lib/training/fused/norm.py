"""The RMS norm (Zhang and Sennrich 2019) as one step of differentiation.

    y = weight * x / sqrt(mean(x^2) + epsilon)

The mean is taken in fp32 and the weight multiplied in x's type, as Llama and its kin do. Kept for
the backward pass are x as it came and one number a row, not copies of x in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline_lib.training.fused.memory import new_empty


class _RmsNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        # What stays is allocated before what is dropped: see `Affine.room`.
        outputs = new_empty(inputs, *inputs.shape, dtype=torch.result_type(weight, inputs))
        inverse = new_empty(inputs, *inputs.shape[:-1], 1, dtype=torch.float32)
        wide = inputs.float()
        torch.mean(wide.square(), -1, keepdim=True, out=inverse).add_(epsilon).rsqrt_()
        torch.mul(weight, (wide * inverse).to(inputs.dtype), out=outputs)
        ctx.save_for_backward(inputs, weight, inverse)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, inverse = ctx.saved_tensors
        normed = inputs.float() * inverse
        wide = gradient.float()
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (wide * normed).flatten(0, -2).sum(0).to(weight.dtype)
        wide = wide * weight
        along = (wide * normed).mean(-1, keepdim=True)
        of_inputs = wide.sub_(normed.mul_(along)).mul_(inverse)
        return of_inputs.to(inputs.dtype), of_weight, None


def rms_norm(inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Rows `[…, D]` divided by their root mean square, times `weight[D]`, in the inputs' type."""
    outputs: Tensor = _RmsNormFunction.apply(inputs, weight, epsilon)  # type: ignore[no-untyped-call]
    return outputs
