"""Where a model's layers are replaced by functions that take fewer passes over memory.

What a layer computes is not read off its name: a gated MLP or a norm of some architecture may
differ in a detail. Each class that looks like one is tried on random input, in the model's own
weights; one that computes something else is left as it is.
"""

from __future__ import annotations

import logging
import types
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline_lib.training.fused.affine import Affine, affine, only_adapter
from pipeline_lib.training.fused.gated import gated_mlp
from pipeline_lib.training.fused.norm import rms_norm

logger = logging.getLogger(__name__)

_TRIED_ROWS = 8
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Of the largest output; in 16 bits, sums in another order differ in the last place."""
_Forward = Callable[[Any, Tensor], Tensor]


def fuse(model: nn.Module, *, is_tried: bool = True) -> Counter[str]:
    """Replace how adapted linear layers, gated MLPs and RMS norms of a model are computed.

    Layers stay what they are: parameters, names and what is saved do not change. While an adapter
    is disabled or merged, its layer computes what it always did.

    Args:
        model: with its adapter, if it has one; weights must be whole, not partitioned by ZeRO 3.
        is_tried: whether what looks like such an MLP or norm is tried first. A model without
            weights cannot be.

    Returns:
        How many of each kind were replaced.
    """
    replaced: Counter[str] = Counter()
    known: dict[tuple[type, _Forward], bool] = {}

    def replace_if_equal(module: nn.Module, forward: _Forward) -> bool:
        """Tried once for each class."""
        key = type(module), forward
        if key not in known:
            known[key] = not is_tried or _is_equal(module, forward)
        if known[key]:
            replace_forward(module, forward)
        return known[key]

    for module in model.modules():
        if type(module) is not nn.Linear and _layer_of(module) is not None:
            replace_forward(module, _lora_forward)
            replaced["linear"] += 1
        elif _looks_gated(module):
            if replace_if_equal(module, _gated_forward):
                replaced["mlp"] += 1
        elif _looks_like_rms_norm(module) and replace_if_equal(module, _norm_forward):
            replaced["norm"] += 1
    return replaced


def replace_forward(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Let this module compute something else; its class and its other modules stay as they are."""
    module.forward = types.MethodType(forward, module)


def _is_equal(module: Any, forward: _Forward) -> bool:
    weight = next(module.parameters())  # a norm's, or that of a linear layer, which takes inputs
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(_TRIED_ROWS, weight.shape[-1], generator=generator)
    inputs = inputs.to(weight.device, weight.dtype)
    with torch.no_grad():
        expected, found = type(module).forward(module, inputs), forward(module, inputs)
    difference = float((expected - found).abs().max() / expected.abs().max())
    if difference <= _TOLERANCE.get(weight.dtype, 0.0):
        return True
    logger.info(
        "%s is computed as it is: the faster function differs by %.2g",
        type(module).__name__,
        difference,
    )
    return False


def _layer_of(module: Any) -> Affine | None:
    """What a linear layer, adapted or frozen, computes now; `None` for another kind of layer."""
    if type(module) is nn.Linear:
        return None if module.weight.requires_grad else Affine(module.weight, module.bias)
    from peft.tuners.lora import Linear

    if type(module) is not Linear or module.merged:
        return None
    base = _layer_of(module.base_layer)
    if base is None or module.disable_adapters:
        return base
    return _with_adapter(base, module)


def _with_adapter(base: Affine, module: Any) -> Affine | None:
    """`None` unless there is one adapter, of A and B alone, without dropout."""
    name = only_adapter(module)
    if name is None or not isinstance(module.lora_dropout[name], nn.Identity):
        return None
    down, up = module.lora_A[name], module.lora_B[name]
    return Affine(base.weight, base.bias, down.weight, up.weight, float(module.scaling[name]))


def _lora_forward(self: Any, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    layer = None if args or kwargs else _layer_of(self)
    if layer is None:
        outputs: Tensor = type(self).forward(self, inputs, *args, **kwargs)
        return outputs
    return affine(inputs, layer)


def _looks_gated(module: Any) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    activation = getattr(module, "act_fn", None)
    return (
        all(_layer_of(part) is not None for part in parts)
        and "silu" in type(activation).__name__.lower()
    )


def _gated_forward(self: Any, inputs: Tensor) -> Tensor:
    gate, up, down = (_layer_of(part) for part in (self.gate_proj, self.up_proj, self.down_proj))
    if gate is None or up is None or down is None:
        outputs: Tensor = type(self).forward(self, inputs)
        return outputs
    return gated_mlp(inputs, gate, up, down)


def _looks_like_rms_norm(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith("RMSNorm")
        and isinstance(weight, nn.Parameter)
        and hasattr(module, "variance_epsilon")
    )


def _norm_forward(self: Any, inputs: Tensor) -> Tensor:
    return rms_norm(inputs, self.weight, self.variance_epsilon)
