"""Adapters that peft computes, with their product first and the layer's added to it.

Why the order matters in 16 bits, `affine` says. This is for layers that cannot be fused: under
ZeRO 3 a weight is whole only while its own layer is called, and dropout comes between.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pipeline_lib.training.fused.affine import only_adapter, without_autocast
from pipeline_lib.training.fused.fusing import replace_forward


def add_adapters_first(model: nn.Module) -> int:
    """Let peft's plain LoRA layers on 16-bit weights that are not fused add in the better order.

    Returns:
        How many layers.
    """
    from peft.tuners.lora import Linear

    num_layers = 0
    for module in model.modules():
        if type(module) is not Linear or "forward" in vars(module):
            continue
        base: Any = module.base_layer
        if type(base) is nn.Linear and base.weight.dtype in (torch.bfloat16, torch.float16):
            replace_forward(base, _base_forward)
            replace_forward(module, _lora_forward)
            num_layers += 1
    return num_layers


def _lora_forward(self: Any, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = None if args or kwargs or self.merged or self.disable_adapters else only_adapter(self)
    if name is None:
        outputs: Tensor = type(self).forward(self, inputs, *args, **kwargs)
        return outputs
    down, up = self.lora_A[name], self.lora_B[name]
    narrow = down(self.lora_dropout[name](inputs.to(down.weight.dtype)))
    added: Tensor = self.base_layer(inputs, self.scaling[name] * up(narrow))
    return added


def _base_forward(self: Any, inputs: Tensor, adds: Tensor | None = None) -> Tensor:
    """Called as a module, so that ZeRO 3 gathers the weight."""
    if adds is None:
        return linear(inputs, self.weight, self.bias)
    rows = [tensor.flatten(0, -2).to(self.weight.dtype) for tensor in (adds, inputs)]
    outputs: Tensor = _AddedProduct.apply(*rows, self.weight)  # type: ignore[no-untyped-call]
    if self.bias is not None:
        outputs = outputs + self.bias
    return outputs.view(adds.shape)


class _AddedProduct(torch.autograd.Function):
    """`[N, O]`: adds `[N, O]` and the product of inputs `[N, I]` and a frozen weight `[O, I]`.

    Unlike `torch.addmm` it keeps the parameter, which ZeRO 3 gives back and gathers again, and no
    view of its gathered numbers.
    """

    @staticmethod
    def forward(ctx: Any, adds: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        with without_autocast(inputs):
            return torch.addmm(adds, inputs, weight.t())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return gradient, gradient @ weight if ctx.needs_input_grad[1] else None, None
