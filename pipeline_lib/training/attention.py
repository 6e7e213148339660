"""Attention over rows laid end to end, without a mask as large as the square of their length.

A packed sequence is a line of *segments*. A segment starts a row, or continues another segment, of
which it sees everything: several questions about one context are one segment with the context and
one for each question, so the context is computed once. Each segment sees its ancestors and, as far
as it has come, itself; nothing else.

`segment_attention` is registered with transformers under `SEGMENT_ATTENTION`, and is told the
segments through the model's keyword arguments, which reach attention functions. On a GPU it is one
call of torch's variable-length kernel, on a processor matrix products of blocks (see
`pipeline_lib.training.fused.attention`), and where neither can be one call of scaled dot-product
attention for each segment. A model that is set to it but told no segments computes what `sdpa`
does.

    model.set_attn_implementation(register_segment_attention())
    model(input_ids, position_ids=…, attention_mask=no_mask(), segments=Segments((5, 3), (-1, -1)))

`no_mask` keeps transformers from building a mask of its own out of restarting positions, and makes
a model that does not hand the segments on fail instead of mixing rows.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.nn.functional import scaled_dot_product_attention

from pipeline_lib.errors import ConfigError
from pipeline_lib.training.fused.attention import block_attention
from pipeline_lib.training.fused.memory import is_plain

SEGMENT_ATTENTION = "segments"
_Kernel = Callable[..., Any]
_Made = TypeVar("_Made")
_NO_PARENT = -1
_MAX_KERNEL_HEAD_DIM = 256
_KERNEL_DTYPES = (torch.float16, torch.bfloat16)
_KERNEL_CAPABILITY = (8, 0)
_BLOCK_DTYPES = (torch.float32, torch.bfloat16)
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""What some models' attention takes besides, and is not computed here."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of one packed sequence.

    Example:
        `Segments(lengths=(4, 2, 3, 5), parents=(-1, 0, 0, -1))` is a context of 4 tokens, two
        continuations of it, and a row of 5 tokens by itself.
    """

    lengths: tuple[int, ...]
    """In tokens, in order; they add up to the sequence."""
    parents: tuple[int, ...]
    """Index of the segment that each continues, always an earlier one; -1 where it starts a row."""
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def lineage(self, index: int) -> list[int]:
        """The segments whose tokens a segment's last one sees, in order; the last is itself."""
        found = []
        while index != _NO_PARENT:
            found.append(index)
            index = self.parents[index]
        return found[::-1]

    @functools.cached_property
    def num_pairs(self) -> int:
        """Pairs of a token and one that it sees, itself included."""
        pairs = 0
        for index, length in enumerate(self.lengths):
            before = sum(self.lengths[seen] for seen in self.lineage(index)[:-1])
            pairs += length * before + length * (length + 1) // 2
        return pairs

    def cached(self, key: Any, make: Callable[[], _Made]) -> _Made:
        """What `make` makes, made once for all layers."""
        if key not in self._cache:
            self._cache[key] = make()
        made: _Made = self._cache[key]
        return made

    def mask(
        self, num_queries: int, num_keys: int, window: int | None, device: Any
    ) -> torch.Tensor:
        """What the last `num_queries` of `num_keys` tokens see: `[num_queries, num_keys]`, bool."""

        def make() -> torch.Tensor:
            offset = num_keys - num_queries
            seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(offset)
            return seen if window is None else seen.triu(offset - window + 1)

        return self.cached(("mask", num_queries, num_keys, window, device), make)

    def kernel_arguments(self, device: Any) -> _KernelArguments:
        """What the variable-length kernel is told."""
        return self.cached(device, lambda: self._make_kernel_arguments(device))

    def _make_kernel_arguments(self, device: Any) -> _KernelArguments:
        starts = [0, *itertools.accumulate(self.lengths)]
        lineages = [self.lineage(index) for index in range(len(self.lengths))]
        num_keys = [sum(self.lengths[seen] for seen in lineage) for lineage in lineages]
        key_index = [
            torch.arange(starts[seen], starts[seen + 1]) for lineage in lineages for seen in lineage
        ]
        is_tree = any(parent != _NO_PARENT for parent in self.parents)
        return _KernelArguments(
            query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
            key_starts=torch.tensor(
                [0, *itertools.accumulate(num_keys)], dtype=torch.int32, device=device
            ),
            most_queries=max(self.lengths),
            most_keys=max(num_keys),
            key_index=torch.cat(key_index).to(device) if is_tree else None,
        )


@dataclass(frozen=True)
class _KernelArguments:
    query_starts: torch.Tensor
    key_starts: torch.Tensor
    most_queries: int
    most_keys: int
    key_index: torch.Tensor | None
    """Keys in the order in which segments see them; `None` where that is the order they are in."""


def no_mask() -> torch.Tensor:
    """The attention mask to pass with segments: transformers hands four dimensions on untouched."""
    return torch.empty(1, 1, 0, 0)


def register_segment_attention() -> str:
    """Make `segment_attention` known to transformers, and return its name there."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(SEGMENT_ATTENTION, segment_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(SEGMENT_ATTENTION, sdpa_mask)
    return SEGMENT_ATTENTION


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of one layer, as transformers calls it.

    Args:
        module: the layer.
        query: `[1, H, T, D]`.
        key: `[1, K, T, D]`, where K divides H.
        value: `[1, K, T, D]`.
        attention_mask: ignored where there are segments.
        dropout: of attention weights; torch's variable-length kernel has none.
        scaling: of the products; 1 / sqrt(D) by default.
        segments: of the sequence.
        sliding_window: tokens that a token sees, itself included.
        kwargs: what else a model's attention has.

    Returns:
        `[1, T, H, D]` and no weights.

    Raises:
        ConfigError: the model's attention has something that is not computed here.
    """
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return plain
    _check_supported(query, kwargs)
    kernel = None if dropout else _kernel_for(query)
    if kernel is not None:
        return _by_kernel(kernel, segments, query, key, value, scaling, sliding_window), None
    if not dropout and _takes_blocks(query):
        return block_attention(query, key, value, segments, scaling, sliding_window), None
    return _by_segment(segments, query, key, value, scaling, sliding_window, dropout), None


def _check_supported(query: torch.Tensor, kwargs: dict[str, Any]) -> None:
    refused = [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if query.shape[0] != 1:
        refused.append(f"a batch of {query.shape[0]} sequences")
    if refused:
        raise ConfigError(
            f"The model's attention has {' and '.join(refused)}, which rows packed into one "
            "sequence cannot be trained with",
            hint="Set finetune.batch.layout to 'padded'.",
        )


def _by_segment(
    segments: Segments,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    lengths = list(segments.lengths)
    queries, keys, values = (torch.split(part, lengths, dim=2) for part in (query, key, value))
    outputs = []
    for index, own in enumerate(queries):
        seen = segments.lineage(index)
        own_keys, own_values = (
            torch.cat([part[i] for i in seen], dim=2) if len(seen) > 1 else part[index]
            for part in (keys, values)
        )
        if len(seen) > 1 or (window is not None and own.shape[2] > window):
            output = _masked(segments, own, own_keys, own_values, scaling, window, dropout)
        else:
            output = scaled_dot_product_attention(
                own,
                own_keys,
                own_values,
                dropout_p=dropout,
                is_causal=True,
                scale=scaling,
                enable_gqa=own.shape[1] != own_keys.shape[1],
            )
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _masked(
    segments: Segments,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    """Queries `[1, H, n, D]` that are the last of the keys' tokens `[1, K, m, D]`.

    The heads that share a key head are laid one below the other, as if they were more queries: a
    third faster on a CPU than repeated keys.
    """
    _, num_heads, num_queries, width = query.shape
    num_shared = num_heads // key.shape[1]
    folded = query.reshape(1, key.shape[1], num_shared * num_queries, width)
    mask = segments.mask(num_queries, key.shape[2], window, query.device)
    output = scaled_dot_product_attention(
        folded,
        key,
        value,
        attn_mask=mask.repeat(num_shared, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    return output.reshape(1, num_heads, num_queries, width)


def _by_kernel(
    kernel: _Kernel,
    segments: Segments,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    told = segments.kernel_arguments(query.device)
    queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
    if told.key_index is not None:
        keys, values = keys[told.key_index], values[told.key_index]
    output: torch.Tensor = kernel(
        queries,
        keys,
        values,
        told.query_starts,
        told.key_starts,
        told.most_queries,
        told.most_keys,
        scale=scaling,
        # Causal, aligned at the last key; the kernel does not count the token itself.
        window_size=(-1 if window is None else window - 1, 0),
    )
    return output[None]


def _takes_blocks(query: torch.Tensor) -> bool:
    """Also where tensors stand for those of a GPU, as in an estimate: its kernels keep the same."""
    return query.device.type == "cpu" and (query.dtype in _BLOCK_DTYPES or not is_plain(query))


def _kernel_for(query: torch.Tensor) -> _Kernel | None:
    """Torch's variable-length kernel, where it can take such a query."""
    if not query.is_cuda or query.dtype not in _KERNEL_DTYPES:
        return None
    if query.shape[-1] > _MAX_KERNEL_HEAD_DIM:
        return None
    return _kernel_of_device(query.device.index or 0)


@functools.cache
def _kernel_of_device(index: int) -> _Kernel | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if torch.cuda.get_device_capability(index) < _KERNEL_CAPABILITY or "window_size" not in known:
        return None
    if "enable_gqa" in known:  # older versions share key heads without being told
        return functools.partial(varlen_attn, enable_gqa=True)
    return varlen_attn
