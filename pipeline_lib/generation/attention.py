"""Attention for decoding on a CPU, one query position at a time.

torch's fused kernel is made for many query positions. With one, grouped heads and bfloat16 it
takes several times as long as two small matrix products (16 rows, 9 heads on 3, width 64, 210 to
600 cached tokens, one core: 0.3 to 0.7 ms against 0.7 to 9.9 ms per layer, depending on the path
taken). Prefill stays with torch's kernel, where it is the faster one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_NAME = "raftline_cpu_decode"


def use_fast_cpu_decoding(model: Any) -> None:
    """Let a CPU model that runs torch's attention use `_attend` for single query positions."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Softmax attention.

    Query heads that share a key head become rows of one matrix product; scores are products in the
    model's number format and the softmax is in float32, as in transformers' eager attention.

    Args:
        module: the attention layer.
        query: [batch, heads, queries, width].
        key: [batch, key heads, cached, width].
        value: [batch, key heads, cached, width].
        attention_mask: `None` or bool [batch, 1, queries, cached], true where attended.
        scaling: factor on the scores; `None` means width to the power -1/2.
        **kwargs: passed on to torch's kernel.

    Returns:
        [batch, queries, heads, width] and no weights.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    is_plain = kwargs.get("position_bias") is None and kwargs.get("softcap") is None
    is_bool = attention_mask is None or (
        attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1
    )
    if query.shape[2] != 1 or not is_plain or not is_bool:
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return attended
    batch, heads, _, width = query.shape
    key_heads = key.shape[1]
    grouped = query.view(batch, key_heads, heads // key_heads, width)
    scores = torch.matmul(grouped, key.transpose(2, 3)).float()
    scores *= width**-0.5 if scaling is None else scaling
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    output = torch.matmul(scores.softmax(dim=-1).to(query.dtype), value)
    return output.reshape(batch, 1, heads, value.shape[-1]), None
