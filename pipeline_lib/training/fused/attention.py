"""Attention over the segments of a packed sequence by matrix products, block of queries by block.

For processors: there, torch's flash attention spends most of its time outside of matrix products,
and takes up to twice as long as this, the shorter the rows (`benchmarks.training.cpu_attention`).
Nothing as large as the square of the length is kept; weights are computed again in the backward
pass, for a block of queries and the keys that it sees.

In bf16, products are of bf16 numbers and the scores and their softmax in fp32, as in torch's own.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline_lib.training.fused.affine import without_autocast
from pipeline_lib.training.fused.memory import is_plain, new_empty

if TYPE_CHECKING:
    from pipeline_lib.training.attention import Segments

_BLOCK = 64
"""Queries of a block: fewer waste fewer products on tokens that see each other not, more take
larger matrices."""
_SCORES_AT_ONCE = 1 << 19
"""2 MB of them in fp32: what one operation leaves is in the processor's cache for the next."""


@dataclass(frozen=True)
class _Block:
    """Queries that are computed at once, and the keys that they see among their segment's."""

    queries: slice
    """Of the sequence."""
    keys: slice
    """Of what the segment sees: its ancestors and itself, in order."""
    hidden: Tensor
    """`[queries, last keys]`, fp32: 0 where a query sees one of the last keys, else -inf. Added to
    the scores, which takes a quarter of the time of `masked_fill_`."""

    @property
    def num_queries(self) -> int:
        """Those of one head."""
        return len(self.hidden)

    @property
    def num_scores(self) -> int:
        """Of one head."""
        num_keys: int = self.keys.stop - self.keys.start
        return self.num_queries * num_keys


@dataclass(frozen=True)
class _Piece:
    """What one segment's queries see, and their blocks."""

    seen: tuple[slice, ...]
    """Of the sequence; the last is the segment itself."""
    blocks: tuple[_Block, ...]

    def tiles(self, num_kv_heads: int, num_heads: int) -> Iterator[tuple[_Block, slice, slice]]:
        """What is computed at once: a block, some key heads, and the heads that share them."""
        shared = num_heads // num_kv_heads
        for block in self.blocks:
            width = max(1, _SCORES_AT_ONCE // (shared * block.num_scores))
            for first in range(0, num_kv_heads, width):
                last = min(first + width, num_kv_heads)
                yield block, slice(first, last), slice(first * shared, last * shared)

    def gathered(self, tokens: Tensor) -> Tensor:
        """Of `[K, T, D]` what is seen, `[K, M, D]`."""
        if len(self.seen) == 1:
            return tokens[:, self.seen[0]]
        return torch.cat([tokens[:, part] for part in self.seen], dim=1)

    def scatter_add(self, gathered: Tensor, tokens: Tensor) -> None:
        """Add `[K, M, D]` to where `gathered` took it from."""
        sizes = [part.stop - part.start for part in self.seen]
        for part, values in zip(self.seen, torch.split(gathered, sizes, dim=1), strict=True):
            tokens[:, part] += values


def _pieces(segments: Segments, window: int | None) -> Iterator[_Piece]:
    starts = [0, *itertools.accumulate(segments.lengths)]
    hidden = functools.cache(_hidden)
    for index, length in enumerate(segments.lengths):
        seen = tuple(slice(starts[i], starts[i + 1]) for i in segments.lineage(index))
        before = sum(part.stop - part.start for part in seen[:-1])
        blocks = []
        for first in range(0, length, _BLOCK):
            last = min(first + _BLOCK, length)
            start = 0 if window is None else max(0, before + first - window + 1)
            blocks.append(
                _Block(
                    queries=slice(starts[index] + first, starts[index] + last),
                    keys=slice(start, before + last),
                    hidden=hidden(
                        last - first, 0 if window is None else before + last - start, window
                    ),
                )
            )
        yield _Piece(seen, tuple(blocks))


def _hidden(num_queries: int, num_keys: int, window: int | None) -> Tensor:
    """What the last queries see of the keys; without a window, of as many keys as queries."""
    if window is None:
        return torch.full((num_queries, num_queries), float("-inf")).triu(1)
    ahead = torch.arange(num_keys) - torch.arange(num_keys - num_queries, num_keys)[:, None]
    is_hidden = (ahead > 0) | (ahead <= -window)
    return torch.zeros(is_hidden.shape).masked_fill(is_hidden, float("-inf"))


@contextlib.contextmanager
def _products_of(dtype: torch.dtype) -> Iterator[None]:
    """Matrix products of fp32 numbers that are bf16 numbers already: as fast as of those."""
    precision = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    if dtype == torch.bfloat16:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = precision  # type: ignore[attr-defined]


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pieces: tuple[_Piece, ...],
        scaling: float,
    ) -> Tensor:
        num_heads, num_tokens, width = query.shape
        outputs = new_empty(query, num_tokens, num_heads, width)
        with without_autocast(query), _products_of(query.dtype):
            for piece in pieces:
                columns, values = _columns(piece.gathered(key).float()), piece.gathered(value)
                for block, kv, heads in piece.tiles(len(key), num_heads):
                    asking = _folded(query[heads], block, len(columns[kv]))
                    weights = _weights(asking, columns[kv], block, scaling).to(query.dtype)
                    found = torch.bmm(weights, values[kv, block.keys])
                    outputs[block.queries, heads] = _by_token(found, block)
        ctx.save_for_backward(query, key, value)
        ctx.pieces, ctx.scaling = pieces, scaling
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        num_heads = query.shape[0]
        of_query = new_empty(query, query.shape[1], num_heads, query.shape[2])
        of_key, of_value = (torch.zeros(key.shape, dtype=torch.float32) for _ in range(2))
        by_head = gradient.transpose(0, 1)
        with _products_of(query.dtype):
            for piece in ctx.pieces:
                keys, values = piece.gathered(key), piece.gathered(value)
                key_columns, value_columns = _columns(keys.float()), _columns(values)
                of_keys, of_values = (torch.zeros(keys.shape, dtype=torch.float32) for _ in "kv")
                for block, kv, heads in piece.tiles(len(key), num_heads):
                    asking, given = (
                        _folded(part[heads], block, len(keys[kv])) for part in (query, by_head)
                    )
                    weights = _weights(asking, key_columns[kv], block, ctx.scaling)
                    weights = weights.to(query.dtype)
                    of_values[kv, block.keys] += torch.bmm(weights.transpose(1, 2), given)
                    of_weights = torch.bmm(given, value_columns[kv, :, block.keys])
                    of_scores = torch.ops.aten._softmax_backward_data(
                        of_weights, weights, -1, weights.dtype
                    )
                    found = torch.bmm(of_scores, keys[kv, block.keys])
                    of_query[block.queries, heads] = _by_token(found, block)
                    of_keys[kv, block.keys] += torch.bmm(of_scores.transpose(1, 2), asking)
                piece.scatter_add(of_keys, of_key)
                piece.scatter_add(of_values, of_value)
        for of_scaled in (of_query, of_key):  # here, where it is less than the scores
            of_scaled.mul_(ctx.scaling)
        return of_query.transpose(0, 1), of_key.to(key.dtype), of_value.to(key.dtype), None, None


def _columns(rows: Tensor) -> Tensor:
    """Of `[K, M, D]`, `[K, D, M]`: copied once, where each product would copy what it takes."""
    return rows.transpose(1, 2).contiguous()


def _weights(folded: Tensor, key_columns: Tensor, block: _Block, scaling: float) -> Tensor:
    """Attention weights of a block's queries, as folded, fp32: `[K, G x queries, keys]`."""
    scores = torch.bmm(folded.float() * scaling, key_columns[:, :, block.keys])
    num_queries, num_hidden = block.hidden.shape
    last = scores.view(len(folded), -1, num_queries, scores.shape[-1])[..., -num_hidden:]
    last.add_(block.hidden)
    return scores.softmax(-1)


def _folded(by_head: Tensor, block: _Block, num_kv_heads: int) -> Tensor:
    """Of `[H, T, D]` a block's queries, those of the heads that share keys one below the other."""
    taken = by_head[:, block.queries]
    return taken.reshape(num_kv_heads, -1, taken.shape[-1])


def _by_token(folded: Tensor, block: _Block) -> Tensor:
    """`[K, G x queries, D]` as `[queries, H, D]`."""
    return folded.view(-1, block.num_queries, folded.shape[-1]).transpose(0, 1)


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attention over segments.

    Args:
        query: `[1, H, T, D]`.
        key: `[1, K, T, D]`, where K divides H.
        value: `[1, K, T, D]`.
        segments: of the sequence.
        scaling: of the products; 1 / sqrt(D) by default.
        window: tokens that a token sees, itself included.

    Returns:
        `[1, T, H, D]`.
    """
    # In an estimate there is nothing to compute, and what is kept does not depend on the blocks.
    pieces: tuple[_Piece, ...] = ()
    if is_plain(query):
        pieces = segments.cached(("blocks", window), lambda: tuple(_pieces(segments, window)))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Autocast leaves queries and keys in fp32, as rotary positions make them, and values in bf16.
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    heads = (part[0].to(dtype) for part in (query, key, value))
    outputs: Tensor = _BlockAttention.apply(*heads, pieces, scale)  # type: ignore[no-untyped-call]
    return outputs[None]
