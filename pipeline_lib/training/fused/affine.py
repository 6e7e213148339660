"""A frozen linear layer with a low-rank adapter on it, as one step of differentiation.

    y = x W' + bias + s (x A') B'

Written as separate operations, as peft does, the adapter's part is a tensor of y's size that is
made, scaled and added, forward and backward, and inputs are kept in fp32 beside bf16 (peft casts
them to its weights' type). Here the products are added where y is, in the precision of the frozen
weights; the adapter's own weights and their gradients stay in fp32 where they are.

The adapter's product comes first, and the layer's is added to it before the sum is rounded. The
other way round, what an adapter adds to a number of 16 bits is lost wherever it is less than half
of that number's last place. Adapters begin at zero, so it is early steps that lose most: of the
0.10 nats that SmolLM2-135M gains by its first step in fp32, peft's order leaves 0.03 in bf16, this
one all (`benchmarks/README.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from pipeline_lib.training.fused.memory import new_empty


@dataclass(frozen=True)
class Affine:
    """The tensors of one layer; O outputs, I inputs, rank R."""

    weight: Tensor
    """`[O, I]`, frozen."""
    bias: Tensor | None = None
    """`[O]`, frozen."""
    down: Tensor | None = None
    """`[R, I]`, A of the adapter; `None` without one."""
    up: Tensor | None = None
    """`[O, R]`, B of the adapter."""
    scaling: float = 1.0

    @classmethod
    def of(cls, tensors: Sequence[Any], scaling: float) -> Self:
        """From what `tensors` gave."""
        weight, bias, down, up = tensors
        return cls(weight, bias, down, up, scaling)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """For `torch.autograd.Function.apply` and `save_for_backward`."""
        return self.weight, self.bias, self.down, self.up

    def room(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Memory for the outputs of as many rows as `inputs` has.

        Taken before that of temporary results, these lie behind it and are given back whole.
        Otherwise they leave holes between what is kept, which what comes next does not fit into.
        """
        outputs = new_empty(inputs, len(inputs), len(self.weight))
        if self.down is None:
            return outputs, None
        return outputs, new_empty(inputs, len(inputs), len(self.down))

    def outputs(
        self, inputs: Tensor, room: tuple[Tensor, Tensor | None] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`[N, O]` for inputs `[N, I]`, and what `gradients` needs: inputs times A', `[N, R]`.

        Args:
            inputs: `[N, I]`.
            room: where to write them.
        """
        outputs, narrow = self.room(inputs) if room is None else room
        if self.down is None or self.up is None or narrow is None:
            if self.bias is None:
                torch.mm(inputs, self.weight.t(), out=outputs)
            else:
                torch.addmm(self.bias, inputs, self.weight.t(), out=outputs)
            return outputs, None
        torch.mm(inputs, self.down.to(inputs.dtype).t(), out=narrow)
        # Not behind the layer's product, whose rounded numbers would swallow it (see above).
        torch.mm(narrow, (self.scaling * self.up).to(inputs.dtype).t(), out=outputs)
        outputs.addmm_(inputs, self.weight.t())
        if self.bias is not None:
            outputs.add_(self.bias)
        return outputs, narrow

    def gradients(
        self, gradient: Tensor, inputs: Tensor, narrow: Tensor | None, into: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Of inputs, A and B.

        Args:
            gradient: of the outputs, `[N, O]`.
            inputs: `[N, I]`.
            narrow: see `outputs`.
            into: a gradient of the inputs to add theirs to, in place.
        """
        of_inputs = gradient @ self.weight if into is None else into.addmm_(gradient, self.weight)
        of_down, of_up = self.adapter_gradients(gradient, inputs, narrow, of_inputs)
        return of_inputs, of_down, of_up

    def adapter_gradients(
        self, gradient: Tensor, inputs: Tensor, narrow: Tensor | None, of_inputs: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Of A and B; what goes through them to the inputs is added to `of_inputs`, if given."""
        if self.down is None or self.up is None or narrow is None:
            return None, None
        of_narrow = (gradient @ self.up.to(gradient.dtype)).mul_(self.scaling)
        if of_inputs is not None:
            of_inputs.addmm_(of_narrow, self.down.to(gradient.dtype))
        of_down = of_narrow.t() @ inputs
        of_up = (narrow.t() @ gradient).t().mul(self.scaling)
        return of_down.to(self.down.dtype), of_up.to(self.up.dtype)


class _AffineFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scaling: float, *tensors: Any) -> Tensor:
        layer = Affine.of(tensors, scaling)
        with without_autocast(inputs):
            outputs, narrow = layer.outputs(inputs)
        ctx.save_for_backward(inputs, narrow, *tensors)
        ctx.scaling = scaling
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, narrow, *tensors = ctx.saved_tensors
        layer = Affine.of(tensors, ctx.scaling)
        if ctx.needs_input_grad[0]:
            of_inputs, *of_adapter = layer.gradients(gradient, inputs, narrow)
            return of_inputs, None, None, None, *of_adapter
        return None, None, None, None, *layer.adapter_gradients(gradient, inputs, narrow, None)


def without_autocast(like: Tensor) -> torch.autocast:
    """Precision is chosen here, not by autocast."""
    return torch.autocast(like.device.type, enabled=False)


def affine(inputs: Tensor, layer: Affine) -> Tensor:
    """Outputs `[…, O]` of inputs `[…, I]`, in the type of the layer's frozen weights."""
    rows = inputs.reshape(-1, inputs.shape[-1]).to(layer.weight.dtype)
    outputs: Tensor = _AffineFunction.apply(rows, layer.scaling, *layer.tensors())  # type: ignore[no-untyped-call]
    return outputs.view(*inputs.shape[:-1], -1)


def only_adapter(module: Any) -> str | None:
    """The name of the active adapter of a peft layer; `None` unless it is one, of A and B alone."""
    if len(module.active_adapters) != 1:
        return None
    name: str = module.active_adapters[0]
    if name not in module.lora_A or name in module.lora_variant:
        return None
    if module.lora_A[name].bias is not None or module.lora_B[name].bias is not None:
        return None
    return name
