"""Whether a model can be trained on rows laid end to end: found out by trying it.

Attention is told where rows end through keyword arguments, which a model has to hand on; and all
that mixes tokens must be attention: a state space or a convolution carries over from one row into
the next. No list of architectures says for how long that is true, so a small random model of the
same architecture computes rows packed and alone, and either they agree or rows are padded.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from pipeline_lib.config import BatchConfig

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-4
"""Of the largest logit."""
_INITIALIZER_RANGE = 0.3
"""Larger than usual: attention of weights that are almost 0 looks the same whatever it sees."""
_WINDOW = 4
"""Tokens that a layer with a sliding window sees in the trial: fewer than the trial's rows have."""
_SMALL: dict[str, int] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
    "sliding_window": _WINDOW,
}
_FIRST, _SECOND = 11, 7
_PREFIX, _TAILS = 9, (5, 6)
"""Tokens of the trial's rows, and of its shared context and what goes on from it."""


def resolve_layout(batch: BatchConfig, model_path: Path) -> Literal["packed", "padded"]:
    """The layout of a configuration for a model; see `supports_segments`."""
    if batch.layout != "auto":
        return batch.layout
    return "packed" if supports_segments(model_path) else "padded"


def supports_segments(model_path: Path) -> bool:
    """Whether a model's architecture computes packed rows as it computes each alone.

    Says in the log why not.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            config = _small(AutoConfig.from_pretrained(model_path))
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation="sdpa", dtype=torch.float32
            )
            difference = _largest_difference(model.eval())
        # Whatever an architecture that nobody here knows may raise: it cannot be packed.
        except Exception as error:  # noqa: BLE001
            logger.info("Rows are padded instead of packed: the model's trial failed (%s)", error)
            return False
    if difference > _TOLERANCE:
        logger.info(
            "Rows are padded instead of packed: in the model's trial, packed rows differed by %.2g",
            difference,
        )
    return difference <= _TOLERANCE


def _small(config: Any) -> Any:
    """The same architecture with few and narrow layers, at least one of each type."""
    text = config.get_text_config()
    types = list(getattr(text, "layer_types", None) or [])
    needed = max((types.index(kind) for kind in set(types)), default=0) + 1
    num_layers = min(max(needed, 2), text.num_hidden_layers)
    for name, value in vars(text).copy().items():
        if isinstance(value, list) and len(value) == text.num_hidden_layers:
            setattr(text, name, value[:num_layers])
    text.num_hidden_layers = num_layers
    for name, value in _SMALL.items():
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, min(value, getattr(text, name)))
    text.initializer_range = _INITIALIZER_RANGE
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    return config


def _largest_difference(model: Any) -> float:
    """Between logits of packed rows and of the same rows alone, by the largest logit."""
    import torch

    from pipeline_lib.training.attention import Segments, no_mask, register_segment_attention

    ids = torch.arange(_FIRST + _SECOND + _PREFIX + sum(_TAILS)) * 7 % model.config.vocab_size
    first, second, prefix, *tails = ids.split([_FIRST, _SECOND, _PREFIX, *_TAILS])
    alone = [first, second, *(torch.cat([prefix, tail]) for tail in tails)]
    positions = [torch.arange(n) for n in (_FIRST, _SECOND, _PREFIX)]
    positions += [torch.arange(_PREFIX, _PREFIX + n) for n in _TAILS]
    with torch.no_grad():
        expected = [model(input_ids=row[None], use_cache=False).logits[0] for row in alone]
        model.set_attn_implementation(register_segment_attention())
        packed = model(
            input_ids=ids[None],
            position_ids=torch.cat(positions)[None],
            attention_mask=no_mask(),
            segments=Segments((_FIRST, _SECOND, _PREFIX, *_TAILS), (-1, -1, -1, 2, 2)),
            use_cache=False,
        ).logits[0]
    wanted = torch.cat([*expected[:3], *(row[_PREFIX:] for row in expected[3:])])
    # The context is the beginning of its first continuation.
    start = _FIRST + _SECOND
    wanted = torch.cat([wanted[: start + _PREFIX + _TAILS[0]], expected[3][_PREFIX:]])
    return float((packed - wanted).abs().max() / wanted.abs().max())
