"""Makes a micro batch whose cost is close to what its answers need.

RAFT prompts are long and answers short. Two things follow:

- The language-model head, a large share of a small model's work, is computed only at positions
  whose next token is learned: `logits_to_keep` marks them, `shift_labels` holds those next tokens.
  `labels` must not be `None` for the model to return a loss, and its value is then ignored.
- There is no attention mask. Rows are padded on the right, and under causal attention a token never
  sees what comes after it, so padding changes nothing that is looked at; without a mask, scaled
  dot-product attention takes its fast causal path.

Laying rows end to end in one sequence avoids padding too, but then attention needs a dense
block-diagonal mask wherever there is no variable-length kernel: on a CPU that took 1.5 times as
long (benchmarks/training).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PAD_ID = 0
"""Any id does: no token looks at padding, and no loss is taken on it."""


def collate(features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Turn examples into the inputs of one forward pass.

    Args:
        features: `B` mappings with `input_ids` and `num_prompt_tokens` (at least 1 each).

    Returns:
        `input_ids[B, T]`, `logits_to_keep[B, T]` (bool), `shift_labels[N]` (the tokens that follow
        the marked positions, row by row) and `labels`, the same tensor.

    Example:
        Rows `[5, 6, 7, 8]` with 2 prompt tokens and `[9, 10]` with 1 give
        `input_ids = [[5, 6, 7, 8], [9, 10, 0, 0]]`,
        `logits_to_keep = [[F, T, T, F], [T, F, F, F]]` and `shift_labels = [7, 8, 10]`.
    """
    import torch

    longest = max(len(feature["input_ids"]) for feature in features)
    input_ids = torch.full((len(features), longest), _PAD_ID)
    keep = torch.zeros_like(input_ids, dtype=torch.bool)
    shift_labels: list[int] = []
    for row, feature in enumerate(features):
        ids, num_prompt_tokens = feature["input_ids"], feature["num_prompt_tokens"]
        input_ids[row, : len(ids)] = torch.tensor(ids)
        keep[row, num_prompt_tokens - 1 : len(ids) - 1] = True
        shift_labels.extend(ids[num_prompt_tokens:])
    targets = torch.tensor(shift_labels)
    return {
        "input_ids": input_ids,
        "logits_to_keep": keep,
        "shift_labels": targets,
        "labels": targets,
    }
