"""Batched decoding on a key-value cache: shared prefixes once, finished rows leave the batch.

Synthesis sends many prompts that begin alike (the same worked examples, the same passage with
another first word). The tokens that all prompts of a batch share are run once, at batch size 1,
and their cache is copied to every row; rows with the same prompt are run once and then copied.
What remains is padded on the left, behind the shared tokens:

    shared shared shared  pad pad own own own     positions 0 1 2  . . 3 4 5
    shared shared shared  own own own own own     positions 0 1 2  3 4 5 6 7

Padding is masked, and positions count real tokens only, so a row's numbers are those it would
have alone (up to the order of floating-point sums).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    ChooseTokens = Callable[[Sequence["Row"], torch.Tensor], list[int]]

MIN_SHARED_TOKENS = 32
"""Shorter common prefixes are not worth a forward pass of their own."""
TARGET_ROWS = 16
"""Targets scored together."""


@dataclass(slots=True)
class Row:
    """One prompt while it is being continued."""

    index: int
    prompt_ids: tuple[int, ...]
    forced_ids: tuple[int, ...]
    generated: list[int] = field(default_factory=list)
    rng: torch.Generator | None = None


@dataclass(slots=True)
class Prefilled:
    """A batch whose prompts are in the cache."""

    cache: Any
    attention_mask: torch.Tensor
    """[batch, cached tokens]; 0 where padding lies."""
    lengths: list[int]
    """Real tokens per row: the position of its next token."""
    logits: torch.Tensor
    """[batch, kept positions, vocabulary]."""


class PrefixMemory:
    """The cache of the last shared prefix; batches of one call usually share the same one."""

    def __init__(self) -> None:
        self._ids: tuple[int, ...] = ()
        self._cache: Any = None

    def cache(self, model: Any, ids: tuple[int, ...]) -> Any:
        """A fresh copy of the cache of `ids`, batch size 1."""
        if ids != self._ids:
            self._ids, self._cache = ids, _run_prefix(model, ids)
        return copy.deepcopy(self._cache)


def common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """Length of the longest prefix that all sequences share."""
    first, last = min(sequences), max(sequences)
    for position, (left, right) in enumerate(zip(first, last, strict=False)):
        if left != right:
            return position
    return min(len(first), len(last))


def prefill(
    model: Any,
    sequences: Sequence[tuple[int, ...]],
    *,
    max_shared: int,
    keep: int,
    memory: PrefixMemory,
) -> Prefilled:
    """Run `sequences` (distinct, not empty) and keep the logits of their last `keep` positions.

    Args:
        model: a causal language model.
        sequences: token ids per row.
        max_shared: most leading tokens that may be run as a shared prefix.
        keep: positions, from the end, whose logits are computed.
        memory: holds the shared prefix between calls.
    """
    import torch
    from transformers import DynamicCache

    shared = min(common_prefix(sequences), max_shared) if len(sequences) > 1 else 0
    if shared < MIN_SHARED_TOKENS or not _can_share(model):
        shared = 0
    suffixes = [sequence[shared:] for sequence in sequences]
    width = max(map(len, suffixes))
    device = model.device
    ids = torch.tensor(
        [[0] * (width - len(suffix)) + list(suffix) for suffix in suffixes], device=device
    )
    own_mask = torch.tensor(
        [[0] * (width - len(suffix)) + [1] * len(suffix) for suffix in suffixes], device=device
    )
    positions = (own_mask.cumsum(1) - 1).clamp(min=0) + shared
    if shared:
        cache = memory.cache(model, sequences[0][:shared])
        cache.batch_repeat_interleave(len(sequences))
        mask = torch.cat([own_mask.new_ones((len(sequences), shared)), own_mask], dim=1)
    else:
        cache, mask = DynamicCache(config=model.config), own_mask
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )
    return Prefilled(cache, mask, [len(sequence) for sequence in sequences], output.logits)


def decode(
    model: Any,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    memory: PrefixMemory,
    choose: ChooseTokens,
    is_finished: Callable[[Row], bool],
) -> None:
    """Continue every row until `is_finished` or `max_new_tokens`; fills `Row.generated`."""
    import torch

    prompts = list(dict.fromkeys(row.prompt_ids for row in rows))
    state = _prefill_distinct(model, prompts, memory)
    place = {prompt: number for number, prompt in enumerate(prompts)}
    state = _select(state, [place[row.prompt_ids] for row in rows])
    active = list(rows)
    while True:
        for row, token in zip(active, choose(active, state.logits[:, -1]), strict=True):
            step = len(row.generated)
            is_forced = step < len(row.forced_ids)
            row.generated.append(row.forced_ids[step] if is_forced else token)
        going = [
            number
            for number, row in enumerate(active)
            if len(row.generated) < max_new_tokens and not is_finished(row)
        ]
        if not going:
            return
        if len(going) < len(active):
            state = _select(state, going)
            active = [active[number] for number in going]
        tokens = torch.tensor([[row.generated[-1]] for row in active], device=model.device)
        state = _step(model, state, tokens)


def target_nlls(
    model: Any,
    pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    *,
    memory: PrefixMemory,
) -> list[float]:
    """Summed negative log-likelihood (nats, float32) of each target after its prompt.

    Equal prompts are run once; the vocabulary head sees target positions only. Targets run in
    groups of similar length, each on its own copy of the prompts' cache.

    Args:
        model: a causal language model.
        pairs: token ids of prompt and target, neither empty.
        memory: holds the shared prefix between calls.
    """
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    state = _prefill_distinct(model, prompts, memory)
    place = {prompt: number for number, prompt in enumerate(prompts)}
    by_length = sorted(range(len(pairs)), key=lambda number: len(pairs[number][1]))
    nlls: dict[int, float] = {}
    for start in range(0, len(by_length), TARGET_ROWS):
        group = by_length[start : start + TARGET_ROWS]
        is_last = start + TARGET_ROWS >= len(by_length)
        own = state if is_last else replace(state, cache=copy.deepcopy(state.cache))
        rows = _select(own, [place[pairs[number][0]] for number in group])
        nlls |= zip(group, _nlls_after(model, rows, [pairs[n][1] for n in group]), strict=True)
    return [nlls[number] for number in range(len(pairs))]


def _nlls_after(
    model: Any, state: Prefilled, targets: Sequence[tuple[int, ...]]
) -> Iterator[float]:
    """The score of one target per prefilled row; targets are padded on the right."""
    import torch

    width = max(map(len, targets))
    labels = torch.tensor(
        [[*target, *[0] * (width - len(target))] for target in targets], device=model.device
    )
    is_real = torch.tensor(
        [[1] * len(target) + [0] * (width - len(target)) for target in targets],
        device=model.device,
    )
    logits = state.logits[:, -1:]
    if width > 1:
        starts = torch.tensor(state.lengths, device=model.device)[:, None]
        output = model(
            input_ids=labels[:, :-1],
            attention_mask=torch.cat([state.attention_mask, is_real[:, :-1]], dim=1),
            position_ids=starts + torch.arange(width - 1, device=model.device),
            past_key_values=state.cache,
            use_cache=True,
        )
        logits = torch.cat([logits, output.logits], dim=1)
    for row, label, target in zip(logits, labels, targets, strict=True):
        size = len(target)
        nll = torch.nn.functional.cross_entropy(row[:size].float(), label[:size], reduction="sum")
        yield float(nll)


def _prefill_distinct(
    model: Any, prompts: Sequence[tuple[int, ...]], memory: PrefixMemory
) -> Prefilled:
    shortest = min(map(len, prompts))
    return prefill(model, prompts, max_shared=shortest - 1, keep=1, memory=memory)


def _step(model: Any, state: Prefilled, tokens: torch.Tensor) -> Prefilled:
    import torch

    mask = torch.cat([state.attention_mask, torch.ones_like(tokens)], dim=1)
    output = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=torch.tensor([[length] for length in state.lengths], device=tokens.device),
        past_key_values=state.cache,
        use_cache=True,
    )
    return Prefilled(state.cache, mask, [n + 1 for n in state.lengths], output.logits)


def _select(state: Prefilled, numbers: list[int]) -> Prefilled:
    """The batch with only (or copies of) these rows."""
    import torch

    if numbers == list(range(len(state.lengths))):
        return state
    indices = torch.tensor(numbers, device=state.attention_mask.device)
    state.cache.batch_select_indices(indices)
    return Prefilled(
        state.cache,
        state.attention_mask[indices],
        [state.lengths[number] for number in numbers],
        state.logits[indices],
    )


def _can_share(model: Any) -> bool:
    """Only full attention: sliding windows and recurrent states would count the padding.

    A model may also say that it has to see whole prompts.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=model.config).layers
    return getattr(model, "shares_prefixes", True) and all(
        type(layer) is DynamicLayer for layer in layers
    )


def _run_prefix(model: Any, ids: tuple[int, ...]) -> Any:
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    model(
        input_ids=torch.tensor([ids], device=model.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache
