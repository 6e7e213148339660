"""What the tensors of one micro batch take, from the forward pass to the end of the backward pass.

Simulated where the model's code runs without numbers (see `simulation`), else told by a formula for
the usual decoder: two normalisations, attention by a kernel that keeps no matrix of scores, and a
gated feed-forward part.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline_lib.errors import ConfigError
from pipeline_lib.training.estimate.parameters import (
    ModelBuild,
    build_skeleton,
    num_bytes_per_element,
)
from pipeline_lib.training.estimate.workload import MicroBatchShape

logger = logging.getLogger(__name__)

_FP32 = 4
_SIMULATIONS_KEPT = 64


@dataclass(frozen=True, kw_only=True)
class ActivationMemory:
    """Bytes at the peak of one micro batch on one rank."""

    num_bytes: int
    is_simulated: bool
    """Else it is told by the formula."""


def activation_memory(
    build: ModelBuild, shape: MicroBatchShape, *, is_checkpointed: bool
) -> ActivationMemory:
    """What a micro batch takes besides weights, their gradients and the optimizer.

    Args:
        build: of the model.
        shape: of the micro batch.
        is_checkpointed: with gradient checkpointing.
    """
    if build.method != "qlora":
        return _simulated(build, shape, is_checkpointed)
    # In 4 bits, weights are brought to the run's precision one matrix at a time.
    found = _simulated(replace(build, method="lora"), shape, is_checkpointed)
    matrix = _largest_matrix(build.base_path) * num_bytes_per_element(build.precision)
    return replace(found, num_bytes=found.num_bytes + matrix)


@lru_cache(maxsize=_SIMULATIONS_KEPT)
def _simulated(
    build: ModelBuild, shape: MicroBatchShape, is_checkpointed: bool
) -> ActivationMemory:
    from pipeline_lib.training.estimate.simulation import simulate
    from pipeline_lib.training.fused.fusing import fuse

    is_autocast = build.keeps_fp32_weights and build.precision != "fp32"
    try:
        skeleton = build_skeleton(build)
        if build.fuses_layers:
            fuse(skeleton, is_tried=False)
        done = simulate(
            skeleton,
            shape,
            autocast_precision=build.precision if is_autocast else None,
            is_checkpointed=is_checkpointed,
            is_activated=build.method == "activated_lora",
        )
    # Whatever the code of a model that looks at numbers makes of there being none.
    except (RuntimeError, TypeError, ValueError, AttributeError, ConfigError) as error:
        logger.info("Activations are told by a formula, as they cannot be simulated: %s", error)
        num_bytes = activations_by_formula(build, shape, is_checkpointed=is_checkpointed)
        return ActivationMemory(num_bytes=num_bytes, is_simulated=False)
    return ActivationMemory(num_bytes=done.peak, is_simulated=True)


def activations_by_formula(
    build: ModelBuild, shape: MicroBatchShape, *, is_checkpointed: bool
) -> int:
    """The usual decoder's activations.

    A layer keeps for each token, of width h, in the run's precision what its matrices took in (two
    normalised inputs of h, the attention's output, the product of the feed-forward part), queries,
    keys and values, and gate, activated gate and up of the feed-forward part; and in fp32 the
    inputs of both normalisations. Where layers are fused, these inputs are in the run's precision,
    and of the feed-forward part there are gate and up. Checkpointing keeps one input of h for each
    layer and the activations of one layer. Logits and their gradients are there at the learned
    positions.
    """
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(build.base_path).get_text_config()
    width, hidden = num_bytes_per_element(build.precision), text.hidden_size
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or hidden // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    attention = 2 * heads * head_dim + 2 * kv_heads * head_dim
    of_norms = 2 * hidden * (width if build.fuses_layers else _FP32)
    feed_forward = (2 if build.fuses_layers else 4) * feed_forward_width(text)
    layer = width * (2 * hidden + attention + feed_forward) + of_norms
    layers = text.num_hidden_layers
    kept = layers * hidden * width + layer if is_checkpointed else layers * layer
    num_transient = 5 if build.fuses_layers else 2
    transient = num_transient * width * max(feed_forward_width(text), hidden)
    logits = 2 * width * text.vocab_size
    return int(shape.num_tokens * (kept + transient) + shape.num_loss_tokens * logits)


def feed_forward_width(text: Any) -> int:
    """Of the experts that a token meets, where there are experts."""
    met = getattr(text, "num_experts_per_tok", None)
    if met:
        return int(met * (getattr(text, "moe_intermediate_size", None) or text.intermediate_size))
    return int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size)


def _largest_matrix(base_path: Path) -> int:
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(base_path).get_text_config()
    return int(text.hidden_size) * max(int(text.hidden_size), feed_forward_width(text))
