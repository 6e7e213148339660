"""Attention by blocks, on processors: what the dense mask computes, in whatever threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

LENGTHS, PARENTS = (150, 37, 70, 5, 200), (-1, 0, 0, -1, -1)
"""Longer than a block, a shared context among them."""


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(("scores_at_once", "num_threads"), [(1 << 19, 1), (1, 1), (1, 2), (1, 8)])
def test_attention_by_blocks_and_its_gradients_are_those_of_the_dense_mask(
    window: int | None,
    scores_at_once: int,
    num_threads: int,
    set_threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All heads at a time, and those that share keys; fewer and more threads than segments."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from pipeline_lib.training.attention import Segments
    from pipeline_lib.training.fused import attention

    set_threads(num_threads)
    monkeypatch.setattr(attention, "_SCORES_AT_ONCE", scores_at_once)
    torch.manual_seed(0)
    total = sum(LENGTHS)
    heads = [torch.randn(1, count, total, 16, requires_grad=True) for count in (6, 2, 2)]
    dense = [head.detach().clone().requires_grad_() for head in heads]
    weights = torch.randn(1, total, 6, 16)
    found = attention.block_attention(*heads, Segments(LENGTHS, PARENTS), 0.3, window)
    keys, values = (head.repeat_interleave(3, 1) for head in dense[1:])
    expected = scaled_dot_product_attention(
        dense[0], keys, values, attn_mask=_seen(window), scale=0.3
    ).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for output in (found, expected):
        (output * weights).sum().backward()
    for one, other in zip(heads, dense, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_in_threads_attention_is_the_same_to_the_bit_each_time(
    set_threads: Callable[[int], None],
) -> None:
    """A resumed run depends on it."""
    import torch

    from pipeline_lib.training.attention import Segments
    from pipeline_lib.training.fused.attention import block_attention

    set_threads(4)
    torch.manual_seed(0)
    given = [torch.randn(1, count, sum(LENGTHS), 16) for count in (6, 2, 2)]

    def results() -> list[Any]:
        heads = [part.clone().requires_grad_() for part in given]
        output = block_attention(*heads, Segments(LENGTHS, PARENTS), None, None)
        output.square().sum().backward()
        return [output, *(head.grad for head in heads)]

    first = results()
    for _ in range(20):
        assert all(torch.equal(one, other) for one, other in zip(first, results(), strict=True))


def _seen(window: int | None) -> Any:
    """Worked out token by token, from the tree's definition."""
    import torch

    starts = [sum(LENGTHS[:index]) for index in range(len(LENGTHS))]
    mask = torch.zeros(sum(LENGTHS), sum(LENGTHS), dtype=torch.bool)
    for index, (start, length) in enumerate(zip(starts, LENGTHS, strict=True)):
        before: list[int] = []
        if PARENTS[index] >= 0:
            parent = PARENTS[index]
            before = list(range(starts[parent], starts[parent] + LENGTHS[parent]))
        for token in range(length):
            line = [*before, *range(start, start + token + 1)]
            mask[start + token, line if window is None else line[-window:]] = True
    return mask


def test_in_bf16_attention_by_blocks_is_no_further_off_than_torchs_own() -> None:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from pipeline_lib.training.attention import Segments
    from pipeline_lib.training.fused.attention import block_attention

    torch.manual_seed(0)
    exact = [torch.randn(1, 4, 300, 64).bfloat16().double().requires_grad_() for _ in range(3)]
    weights = torch.randn(1, 300, 4, 64).bfloat16()

    def results(attend: Callable[..., Any], heads: list[Any]) -> list[Any]:
        output = attend(*heads)
        output.backward(weights.to(output.dtype))
        return [output.detach().double(), *(head.grad.double() for head in heads)]

    def by_torch(*heads: Any) -> Any:
        return scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2)

    def by_blocks(*heads: Any) -> Any:
        return block_attention(*heads, Segments((300,), (-1,)), None, None)

    expected = results(by_torch, exact)
    offs = []
    for attend in (by_blocks, by_torch):
        heads = [head.detach().bfloat16().requires_grad_() for head in exact]
        pairs = zip(results(attend, heads), expected, strict=True)
        offs.append([float((found - wanted).abs().mean()) for found, wanted in pairs])
    assert all(ours <= 1.5 * theirs for ours, theirs in zip(*offs, strict=True))


def test_the_process_keeps_its_precision_of_matrix_products() -> None:
    import torch

    from pipeline_lib.training.attention import Segments
    from pipeline_lib.training.fused.attention import block_attention

    before = torch.backends.mkldnn.matmul.fp32_precision
    heads = [torch.randn(1, 2, 5, 8).bfloat16().requires_grad_() for _ in range(3)]
    block_attention(*heads, Segments((5,), (-1,)), None, None).sum().backward()
    assert torch.backends.mkldnn.matmul.fp32_precision == before
