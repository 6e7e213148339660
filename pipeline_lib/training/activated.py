"""Activated LoRA in two phases: prompts without gradient, answers against their cache.

An activated LoRA (Greenewald et al. 2025, "Activated LoRA: Fine-tuned LLMs for Intrinsics") adapts
the model from its invocation tokens on, here the chat template's generation prompt. Before them the
model is the base model, so nothing there depends on what is trained:

    prompt            no gradient, adapter off   -> keys and values
    <|im_start|>…     gradient, adapter on, reads them; loss on what follows

One pass over the whole row gives the same loss and the same gradients (that is how PEFT trains it);
two phases leave out the prompt's backward pass and its activations. Rows whose prompts begin alike
share the phase without gradient. The cost: an adapter that cannot be merged.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline_lib.errors import ConfigError, TrainingError
from pipeline_lib.generation.decoding import common_prefix
from pipeline_lib.training.losses import token_losses

_OFF = 0
"""As `alora_offsets`: how many of a row's last tokens the adapter is on for."""


@dataclass(frozen=True)
class ActivatedRow:
    """A row, cut where the adapter begins."""

    prompt: tuple[int, ...]
    """Before the invocation tokens."""
    tail: tuple[int, ...]
    """Invocation tokens and answer."""
    num_invocation_tokens: int
    prompt_group: str | None = None
    """Rows of one group have prompts that begin alike."""

    @property
    def targets(self) -> tuple[int, ...]:
        """The answer."""
        return self.tail[self.num_invocation_tokens :]


def invocation_tokens(tokenizer: Any) -> tuple[int, ...]:
    """What the chat template puts between a prompt and its answer.

    Raises:
        ConfigError: it puts nothing there, so that the adapter would never be on.
    """
    question = [{"role": "user", "content": "?"}]
    asked, prompted = (
        tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=prompt)
        for prompt in (False, True)
    )
    begins = prompted.removeprefix(asked)
    if not begins or begins == prompted:
        raise ConfigError(
            "The base model's chat template has no generation prompt, after which an activated "
            "LoRA would be switched on",
            hint="Use finetune.method 'lora', or a model whose template marks the answer's start.",
        )
    return tuple(tokenizer(begins, add_special_tokens=False)["input_ids"])


def cut_row(
    row_id: str,
    input_ids: Sequence[int],
    num_prompt_tokens: int,
    invocation: tuple[int, ...],
    *,
    prompt_group: str | None = None,
) -> ActivatedRow:
    """Cut a row before its invocation tokens.

    Raises:
        TrainingError: the prompt does not end with them.
    """
    start = num_prompt_tokens - len(invocation)
    ids = tuple(map(int, input_ids))
    if start < 0 or ids[start:num_prompt_tokens] != invocation:
        found = ids[max(start, 0) : num_prompt_tokens]
        raise TrainingError(
            f"Row {row_id}: the prompt ends with the tokens {found}, not with the invocation "
            f"tokens {invocation} of the activated LoRA",
            hint="The tokenizer joins the generation prompt with what precedes it: use method "
            "'lora'.",
        )
    return ActivatedRow(ids[:start], ids[start:], len(invocation), prompt_group)


@dataclass(frozen=True)
class Calls:
    """Forward passes of a micro batch, by phase."""

    num_prompt: int
    num_answer: int


def count_calls(rows: Sequence[ActivatedRow]) -> Calls:
    """How many passes `answer_nlls` makes for rows."""
    num_prompt = 0
    for shared, group in _groups(rows):
        num_prompt += (shared > 0) + sum(len(row.prompt) > shared for row in group)
    return Calls(num_prompt, len(rows))


def num_shared_tokens(rows: Sequence[ActivatedRow]) -> int:
    """Tokens that are read once instead of once for each row of a group."""
    return sum(shared * (len(group) - 1) for shared, group in _groups(rows))


def answer_nlls(model: Any, rows: Sequence[ActivatedRow]) -> list[torch.Tensor]:
    """The negative log-likelihood (nats, fp32) of every answer token, a tensor for each row.

    Args:
        model: with an activated LoRA of PEFT; may be wrapped for several ranks.
        rows: of one micro batch.
    """
    found: dict[int, torch.Tensor] = {}
    places = {id(row): place for place, row in enumerate(rows)}
    for shared, group in _groups(rows):
        trunk = _encode(model, _new_cache(model), group[0].prompt[:shared], 0)
        for row in group:
            cache = _encode(model, _branch(trunk), row.prompt[shared:], shared)
            found[places[id(row)]] = _nll(model, cache, row)
    return [found[place] for place in range(len(rows))]


def idle_calls(model: Any, calls: Calls) -> torch.Tensor:
    """Passes that change nothing: ZeRO-3 gathers weights, so ranks must make equally many.

    Returns:
        0, through the graph of each answer pass.
    """
    total = torch.zeros((), device=_device(model))
    for _ in range(calls.num_prompt):
        _encode(model, _new_cache(model), (0,), 0)
    for _ in range(calls.num_answer):
        row = ActivatedRow(prompt=(), tail=(0, 0), num_invocation_tokens=1)
        total = total + 0.0 * _nll(model, _new_cache(model), row).sum()
    return total


def _groups(rows: Sequence[ActivatedRow]) -> Iterator[tuple[int, list[ActivatedRow]]]:
    """Rows that begin alike, with the number of prompt tokens that all of them share."""
    groups: dict[object, list[ActivatedRow]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.prompt_group or number, []).append(row)
    for group in groups.values():
        yield common_prefix([row.prompt for row in group]), group


def _encode(model: Any, cache: Any, ids: tuple[int, ...], start: int) -> Any:
    """The cache with `ids` in it, as the base model reads them."""
    if ids:
        with torch.no_grad():
            _call(model, cache, ids, start, num_active=_OFF, keep=1)
    return cache


def _nll(model: Any, cache: Any, row: ActivatedRow) -> torch.Tensor:
    inputs, targets = row.tail[:-1], row.targets
    logits = _call(
        model, cache, inputs, len(row.prompt), num_active=len(inputs), keep=len(targets)
    ).logits[0]
    return token_losses(logits, torch.tensor(targets, device=logits.device))


def _call(
    model: Any, cache: Any, ids: tuple[int, ...], start: int, *, num_active: int, keep: int
) -> Any:
    device = _device(model)
    return model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.arange(start, start + len(ids), device=device)[None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
        alora_offsets=[num_active],
    )


def _new_cache(model: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=_unwrapped(model).config)


def _branch(cache: Any) -> Any:
    """The same keys and values; what is added to one does not show in the other.

    A layer's update puts new tensors in the place of the old ones, so those can be shared.
    """
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _device(model: Any) -> torch.device:
    device: torch.device = _unwrapped(model).device
    return device


def _unwrapped(model: Any) -> Any:
    """Without what DDP or DeepSpeed puts around it."""
    return model.module if hasattr(model, "module") else model
