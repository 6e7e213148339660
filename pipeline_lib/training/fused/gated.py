"""A gated MLP (Shazeer 2020, SwiGLU) as one step of differentiation.

    y = down(silu(gate(x)) * up(x))

Kept for the backward pass are x, gate(x) and up(x); activation and product, each as large, are
computed again, which costs a pass over memory and no matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from pipeline_lib.training.fused.affine import Affine, without_autocast

_NUM_TENSORS = 4
"""Of a layer; see `Affine.tensors`."""


class _GatedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scalings: tuple[float, ...], *tensors: Any) -> Tensor:
        gate, up, down = _layers(tensors, scalings)
        with without_autocast(inputs):
            gated, narrow_gate = gate.outputs(inputs)
            raised, narrow_up = up.outputs(inputs)
            room = down.room(inputs)
            outputs, narrow_down = down.outputs(silu(gated).mul_(raised), room)
        ctx.save_for_backward(inputs, gated, raised, narrow_gate, narrow_up, narrow_down, *tensors)
        ctx.scalings = scalings
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, gated, raised, narrow_gate, narrow_up, narrow_down, *tensors = ctx.saved_tensors
        gate, up, down = _layers(tensors, ctx.scalings)
        active = silu(gated)
        product = active * raised
        of_product, *of_down = down.gradients(gradient, product, narrow_down)
        of_raised = torch.mul(of_product, active, out=active)
        of_active = of_product.mul_(raised)
        of_gated = torch.ops.aten.silu_backward(of_active, gated)
        of_inputs, *of_gate = gate.gradients(of_gated, inputs, narrow_gate)
        of_inputs, *of_up = up.gradients(of_raised, inputs, narrow_up, into=of_inputs)
        frozen = None, None
        return of_inputs, None, *frozen, *of_gate, *frozen, *of_up, *frozen, *of_down


def _layers(tensors: Any, scalings: tuple[float, ...]) -> list[Affine]:
    return [
        Affine.of(tensors[index * _NUM_TENSORS :][:_NUM_TENSORS], scaling)
        for index, scaling in enumerate(scalings)
    ]


def gated_mlp(inputs: Tensor, gate: Affine, up: Affine, down: Affine) -> Tensor:
    """Outputs `[…, I]` of inputs `[…, I]`, in the type of the layers' frozen weights."""
    rows = inputs.reshape(-1, inputs.shape[-1]).to(gate.weight.dtype)
    layers = (gate, up, down)
    outputs: Tensor = _GatedFunction.apply(  # type: ignore[no-untyped-call]
        rows,
        tuple(layer.scaling for layer in layers),
        *(tensor for layer in layers for tensor in layer.tensors()),
    )
    return outputs.view(*inputs.shape[:-1], -1)
