"""Decoding attention against torch's own."""

from __future__ import annotations

import pytest
import torch

from pipeline_lib.generation.attention import _attend


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (9, 3), (4, 1)])
def test_one_query_position_equals_scaled_dot_product_attention(
    heads: int, key_heads: int, is_masked: bool
) -> None:
    torch.manual_seed(0)
    query = torch.randn(3, heads, 1, 16)
    key, value = torch.randn(3, key_heads, 11, 16), torch.randn(3, key_heads, 11, 8)
    mask = None
    if is_masked:
        mask = torch.ones(3, 1, 1, 11, dtype=torch.bool)
        mask[0, ..., :4] = False
        mask[2, ..., 2:5] = False
    output, weights = _attend(torch.nn.Module(), query, key, value, mask)
    groups = heads // key_heads
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), attn_mask=mask
    )
    torch.testing.assert_close(output, expected.transpose(1, 2))
    assert weights is None


def test_several_query_positions_are_left_to_torch() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, 5, 8) for _ in range(3))
    module = torch.nn.Module()
    module.is_causal = True  # type: ignore[assignment]
    output, _ = _attend(module, query, key, value, None)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(output, expected.transpose(1, 2))
