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
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from pipeline_lib.training.fused.affine import without_autocast
from pipeline_lib.training.fused.memory import is_plain, new_empty
from pipeline_lib.training.fused.threads import in_threads

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

    keys: slice
    """Of what the segment sees: its ancestors and itself, in order."""
    hidden: Tensor
    """`[queries, last keys]`, fp32: 0 where a query sees one of the last keys, else -inf. Added to
    the scores, which takes a quarter of the time of `masked_fill_`."""

    @property
    def num_scores(self) -> int:
        """Of one head."""
        num_keys: int = self.keys.stop - self.keys.start
        return len(self.hidden) * num_keys


@dataclass(frozen=True)
class _Piece:
    """What one segment's queries see, and their blocks: all of `_BLOCK` queries but the last."""

    seen: tuple[slice, ...]
    """Of the sequence; the last is the segment itself."""
    blocks: tuple[_Block, ...]

    @property
    def num_scores(self) -> int:
        """Of one head."""
        return sum(block.num_scores for block in self.blocks)

    def tiles(self, num_kv_heads: int, num_heads: int) -> Iterator[tuple[int, _Block, slice]]:
        """What is computed at once: a block, with its number, and some key heads."""
        for index, block in enumerate(self.blocks):
            width = _SCORES_AT_ONCE * num_kv_heads // (num_heads * block.num_scores)
            for kv in _cut(num_kv_heads, max(1, width)):
                yield index, block, kv

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


def _pieces(segments: Segments, window: int | None) -> tuple[_Piece, ...]:
    """The largest first, so that threads that share them end together."""
    starts = [0, *itertools.accumulate(segments.lengths)]
    hidden = functools.cache(_hidden)
    pieces = []
    for index, length in enumerate(segments.lengths):
        seen = tuple(slice(starts[i], starts[i + 1]) for i in segments.lineage(index))
        before = sum(part.stop - part.start for part in seen[:-1])
        blocks = []
        for first in range(0, length, _BLOCK):
            last = min(first + _BLOCK, length)
            start = 0 if window is None else max(0, before + first - window + 1)
            blocks.append(
                _Block(
                    keys=slice(start, before + last),
                    hidden=hidden(
                        last - first, 0 if window is None else before + last - start, window
                    ),
                )
            )
        pieces.append(_Piece(seen, tuple(blocks)))
    return tuple(sorted(pieces, key=lambda piece: -piece.num_scores))


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


@dataclass(frozen=True)
class _Work:
    """What one thread does without the others: a piece, for some key heads."""

    piece: _Piece
    kv: slice
    heads: slice
    """Those that share the key heads."""


def _works(pieces: tuple[_Piece, ...], num_kv_heads: int, num_heads: int) -> list[_Work]:
    """Every piece, in its order; in parts only where there are fewer than threads.

    Parts have smaller matrices, and as many operations as the whole.
    """
    num_parts = min(num_kv_heads, math.ceil(torch.get_num_threads() / max(1, len(pieces))))
    return [
        _Work(piece, kv, _sharing(kv, num_heads // num_kv_heads))
        for piece in pieces
        for kv in _cut(num_kv_heads, math.ceil(num_kv_heads / num_parts))
    ]


def _cut(number: int, width: int) -> Iterator[slice]:
    for first in range(0, number, width):
        yield slice(first, min(first + width, number))


def _sharing(kv: slice, shared: int) -> slice:
    """The heads that share some key heads."""
    return slice(kv.start * shared, kv.stop * shared)


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

        def attend(work: _Work) -> None:
            _attend(
                work.piece,
                query[work.heads],
                key[work.kv],
                value[work.kv],
                scaling,
                outputs[:, work.heads],
            )

        with without_autocast(query), _products_of(query.dtype):
            for _ in in_threads(attend, _works(pieces, len(key), num_heads)):
                pass
        ctx.save_for_backward(query, key, value)
        ctx.pieces, ctx.scaling = pieces, scaling
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        num_heads = len(query)
        of_query = new_empty(query, query.shape[1], num_heads, query.shape[2])
        of_key, of_value = (torch.zeros(key.shape, dtype=torch.float32) for _ in range(2))
        by_head = gradient.transpose(0, 1)

        def gradients(work: _Work) -> tuple[Tensor, Tensor]:
            return _gradients(
                work.piece,
                query[work.heads],
                key[work.kv],
                value[work.kv],
                ctx.scaling,
                by_head[work.heads],
                of_query[:, work.heads],
            )

        works = _works(ctx.pieces, len(key), num_heads)
        with _products_of(query.dtype):
            # In their order, whichever is done first: sums are the same each time.
            for work, found in zip(works, in_threads(gradients, works), strict=True):
                for of_seen, of_all in zip(found, (of_key, of_value), strict=True):
                    work.piece.scatter_add(of_seen, of_all[work.kv])
        for of_scaled in (of_query, of_key):  # here, where it is less than the scores
            of_scaled.mul_(ctx.scaling)
        return of_query.transpose(0, 1), of_key.to(key.dtype), of_value.to(key.dtype), None, None


def _attend(
    piece: _Piece, query: Tensor, key: Tensor, value: Tensor, scaling: float, outputs: Tensor
) -> None:
    """Write what a piece's queries find to `[T, H, D]`."""
    columns, values = _columns(piece.gathered(key).float()), piece.gathered(value)
    asked = _Folded.of(query[:, piece.seen[-1]], len(key))
    found = asked.empty_like()
    scaled = asked.scaled(scaling)
    for index, block, kv in piece.tiles(len(key), len(query)):
        weights = _weights(scaled[index][kv], columns[kv, :, block.keys], block).to(query.dtype)
        torch.bmm(weights, values[kv, block.keys], out=found[index][kv])
    found.write(outputs[piece.seen[-1]])


def _gradients(
    piece: _Piece,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    gradient: Tensor,
    of_query: Tensor,
) -> tuple[Tensor, Tensor]:
    """Of the keys and values that a piece sees, fp32 `[K, M, D]`; of queries to `[T, H, D]`.

    That of queries and keys is yet to be scaled.

    Args:
        piece: whose queries ask.
        query: `[H, T, D]`.
        key: `[K, T, D]`.
        value: `[K, T, D]`.
        scaling: of the scores.
        gradient: of the outputs, `[H, T, D]`.
        of_query: where to write those of queries.
    """
    keys, values = piece.gathered(key), piece.gathered(value)
    key_columns, value_columns = _columns(keys.float()), _columns(values)
    of_keys, of_values = (torch.zeros(keys.shape, dtype=torch.float32) for _ in "kv")
    asked, given = (_Folded.of(part[:, piece.seen[-1]], len(key)) for part in (query, gradient))
    scaled, of_asked = asked.scaled(scaling), asked.empty_like()
    for index, block, kv in piece.tiles(len(key), len(query)):
        weights = _weights(scaled[index][kv], key_columns[kv, :, block.keys], block)
        weights = weights.to(query.dtype)
        of_values[kv, block.keys] += torch.bmm(weights.transpose(1, 2), given[index][kv])
        of_weights = torch.bmm(given[index][kv], value_columns[kv, :, block.keys])
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        torch.bmm(of_scores, keys[kv, block.keys], out=of_asked[index][kv])
        of_keys[kv, block.keys] += torch.bmm(of_scores.transpose(1, 2), asked[index][kv])
    of_asked.write(of_query[piece.seen[-1]])
    return of_keys, of_values


@dataclass(frozen=True)
class _Folded:
    """Vectors of a piece's queries by block, those of heads that share keys one below the other.

    Laid out at once: for each block alone, copying takes as long as its products.
    """

    full: Tensor
    """`[blocks, K, G x _BLOCK, D]`, G heads share keys."""
    rest: Tensor
    """`[K, G x rest, D]`, of the last block if that is shorter."""
    num_sharing: int
    """G."""

    @classmethod
    def of(cls, by_head: Tensor, num_kv_heads: int) -> Self:
        """From `[H, L, D]`."""
        by_key = torch.unflatten(by_head, 0, (num_kv_heads, -1))
        num_full, num_rest = divmod(by_head.shape[1], _BLOCK)
        full = torch.unflatten(by_key[:, :, : num_full * _BLOCK], 2, (num_full, _BLOCK))
        rest = by_key[:, :, by_head.shape[1] - num_rest :]
        return cls(full.movedim(2, 0).flatten(2, 3), rest.flatten(1, 2), by_key.shape[1])

    def __getitem__(self, block: int) -> Tensor:
        """`[K, G x queries, D]`."""
        return self.full[block] if block < len(self.full) else self.rest

    def scaled(self, scaling: float) -> _Folded:
        """In fp32."""
        full, rest = (part.float() * scaling for part in (self.full, self.rest))
        return _Folded(full, rest, self.num_sharing)

    def empty_like(self) -> _Folded:
        """Room for as many."""
        return _Folded(torch.empty_like(self.full), torch.empty_like(self.rest), self.num_sharing)

    def write(self, by_token: Tensor) -> None:
        """To `[L, H, D]`."""
        by_key = torch.unflatten(by_token, 1, (-1, self.num_sharing))
        num_full = len(self.full) * _BLOCK
        full = torch.unflatten(self.full, 2, (self.num_sharing, _BLOCK))
        torch.unflatten(by_key[:num_full], 0, (-1, _BLOCK)).copy_(full.permute(0, 3, 1, 2, 4))
        if num_full < len(by_token):
            rest = torch.unflatten(self.rest, 1, (self.num_sharing, -1))
            by_key[num_full:].copy_(rest.permute(2, 0, 1, 3))


def _columns(rows: Tensor) -> Tensor:
    """Of `[K, M, D]`, `[K, D, M]`: copied once, where each product would copy what it takes."""
    return rows.transpose(1, 2).contiguous()


def _weights(scaled: Tensor, key_columns: Tensor, block: _Block) -> Tensor:
    """Attention weights of a block's queries, as folded, fp32: `[K, G x queries, keys]`."""
    scores = torch.bmm(scaled, key_columns)
    num_queries, num_hidden = block.hidden.shape
    by_head = scores.view(-1, num_queries, scores.shape[-1])
    by_head[..., -num_hidden:].add_(block.hidden)
    return scores.softmax(-1)


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
        pieces = segments.cached(("blocks", window), lambda: _pieces(segments, window))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Autocast leaves queries and keys in fp32, as rotary positions make them, and values in bf16.
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    heads = (part[0].to(dtype) for part in (query, key, value))
    outputs: Tensor = _BlockAttention.apply(*heads, pieces, scale)  # type: ignore[no-untyped-call]
    return outputs[None]
