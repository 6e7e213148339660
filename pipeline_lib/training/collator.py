"""Packs a micro batch into one row without padding, and asks for logits only where they count.

RAFT prompts are long and answers short. Two things follow:

- Rows of a micro batch are laid end to end in one sequence. `position_ids` start again at each row
  and there is no attention mask: from that transformers builds block-diagonal causal attention, so
  rows do not see each other and no token is padding.
- The language-model head, a large share of a small model's work, is computed only at positions
  whose next token is learned: `logits_to_keep` lists them, `shift_labels` holds those next tokens.
  `labels` must not be `None` for the model to return a loss, and its value is then ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def pack(features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Turn examples into the inputs of one forward pass.

    Args:
        features: mappings with `input_ids` and `num_prompt_tokens` (at least 1 each).

    Returns:
        `input_ids[1, T]`, `position_ids[1, T]`, `logits_to_keep[N]` (positions in `T`),
        `shift_labels[1, N]` (the tokens that follow them) and `labels`, the same tensor.

    Example:
        Rows `[5, 6, 7, 8]` with 2 prompt tokens and `[9, 10]` with 1 give
        `input_ids = [[5, 6, 7, 8, 9, 10]]`, `position_ids = [[0, 1, 2, 3, 0, 1]]`,
        `logits_to_keep = [1, 2, 4]`, `shift_labels = [[7, 8, 10]]`.
    """
    import torch

    input_ids: list[int] = []
    position_ids: list[int] = []
    keep: list[int] = []
    shift_labels: list[int] = []
    for feature in features:
        ids, num_prompt_tokens = feature["input_ids"], feature["num_prompt_tokens"]
        offset = len(input_ids)
        input_ids.extend(ids)
        position_ids.extend(range(len(ids)))
        keep.extend(range(offset + num_prompt_tokens - 1, offset + len(ids) - 1))
        shift_labels.extend(ids[num_prompt_tokens:])
    targets = torch.tensor([shift_labels])
    return {
        "input_ids": torch.tensor([input_ids]),
        "position_ids": torch.tensor([position_ids]),
        "logits_to_keep": torch.tensor(keep),
        "shift_labels": targets,
        "labels": targets,
    }
