"""Makes a micro batch whose cost is close to what its targets need.

RAFT prompts are long and answers short. Three things follow:

- The language-model head, a large share of a small model's work, is computed only at positions
  whose next token is learned (`logits_to_keep`); the trainer takes the loss from these logits.
- Rows are laid end to end in one sequence without padding, and the model's attention is told where
  they end (see `attention`).
- Rows that begin alike, with one instruction or one context, are a tree: what they share is there
  once, and each goes on from it (see `prefixes`).

Position ids restart with each row and go on behind what is shared, so every token is where it would
be if its row were alone. `PaddedCollator` is for models whose attention cannot be told where rows
end. It pads on the right and passes no mask: under causal attention no token sees what is behind
it, and without a mask attention takes its fast causal path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from pipeline_lib.training.attention import Segments, no_mask
from pipeline_lib.training.examples import Example
from pipeline_lib.training.prefixes import NO_PARENT, Branch, prefix_tree, rows_apart

_PAD_ID = 0
"""Any id does: no token looks at padding, and no loss is taken on it."""


@dataclass(frozen=True)
class Targets:
    """What is learned from a micro batch, one entry for each selected logit.

    Not a tensor among the model's inputs, so that nothing rounds the weights to its precision.
    """

    ids: torch.Tensor
    """`[N]`: the token that comes next."""
    weights: torch.Tensor
    """`[N]`, float64: how much it counts."""
    tasks: torch.Tensor
    """`[N]`: number of its task, in the order that the collator was given."""
    num_rows: int
    """In the micro batch."""

    def to(self, device: Any) -> Self:
        """The same, on a device."""
        return type(self)(
            self.ids.to(device), self.weights.to(device), self.tasks.to(device), self.num_rows
        )


class PackedCollator:
    """Lays examples end to end.

    Args:
        tasks: numbered in this order.
        share_contexts: whether examples that begin alike become a tree.
    """

    def __init__(self, tasks: Sequence[str], *, share_contexts: bool) -> None:
        self._tasks = {task: number for number, task in enumerate(tasks)}
        self._share_contexts = share_contexts

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The inputs of one forward pass over a packed sequence of `T` tokens, `N` of them learned.

        An empty micro batch is a pass over one token, of which nothing is learned.

        Returns:
            `input_ids[1, T]`, `position_ids[1, T]`, `logits_to_keep[N]` (positions in the
            sequence), `segments`, `attention_mask` (see `attention.no_mask`) and `targets`.

        Example:
            Rows `[5, 6, 7, 8]` with 2 prompt tokens and `[9, 10]` with 1 give
            `input_ids = [[5, 6, 7, 8, 9, 10]]`, `position_ids = [[0, 1, 2, 3, 0, 1]]`,
            `logits_to_keep = [1, 2, 4]` and `targets.ids = [7, 8, 10]`.
        """
        branches = (prefix_tree if self._share_contexts else rows_apart)(examples)
        ids = [np.asarray(examples[b.row].input_ids[b.start : b.stop]) for b in branches]
        positions = [np.arange(branch.start, branch.stop) for branch in branches]
        kept = _positions_learned_from(branches, examples)
        if not examples:  # a token whose one target weighs nothing
            ids, positions, kept = [np.array([_PAD_ID])], [np.array([0])], [np.array([0])]
        return {
            "input_ids": torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
            "position_ids": torch.from_numpy(np.concatenate(positions))[None],
            "attention_mask": no_mask(),
            "segments": Segments(
                tuple(map(len, ids)), tuple(branch.parent for branch in branches) or (NO_PARENT,)
            ),
            "logits_to_keep": torch.from_numpy(np.concatenate(kept)),
            "targets": _targets(examples, self._tasks),
        }


def _positions_learned_from(
    branches: Sequence[Branch], rows: Sequence[Example]
) -> list[np.ndarray[Any, Any]]:
    """Of each row, where in the sequence its targets are predicted."""
    found = {}
    begin = 0
    for branch in branches:
        if branch.is_row:
            row = rows[branch.row]
            in_row = np.arange(row.num_prompt_tokens - 1, len(row.input_ids) - 1)
            found[branch.row] = begin - branch.start + in_row
        begin += branch.length
    return [found[row] for row in range(len(rows))]


class PaddedCollator:
    """Lays examples one below the other, the shorter ones padded on the right."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = {task: number for number, task in enumerate(tasks)}

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The inputs of one forward pass over `B` rows of up to `T` tokens, `N` of them learned.

        Returns:
            `input_ids[B, T]`, `logits_to_keep[B, T]` (bool) and `targets`, row by row.

        Example:
            Rows `[5, 6, 7, 8]` with 2 prompt tokens and `[9, 10]` with 1 give
            `input_ids = [[5, 6, 7, 8], [9, 10, 0, 0]]`,
            `logits_to_keep = [[F, T, T, F], [T, F, F, F]]` and `targets.ids = [7, 8, 10]`.
        """
        longest = max((len(example.input_ids) for example in examples), default=1)
        input_ids = torch.full((max(len(examples), 1), longest), _PAD_ID)
        keep = torch.zeros_like(input_ids, dtype=torch.bool)
        for number, example in enumerate(examples):
            length = len(example.input_ids)
            input_ids[number, :length] = torch.tensor(np.asarray(example.input_ids))
            keep[number, example.num_prompt_tokens - 1 : length - 1] = True
        if not examples:
            keep[0, 0] = True
        return {
            "input_ids": input_ids,
            "logits_to_keep": keep,
            "targets": _targets(examples, self._tasks),
        }


Collator = PackedCollator | PaddedCollator


def _targets(rows: Sequence[Example], tasks: dict[str, int]) -> Targets:
    if not rows:
        nothing = torch.zeros(1, dtype=torch.long)
        return Targets(nothing, nothing.double(), nothing, 0)
    ids = [np.asarray(row.input_ids[row.num_prompt_tokens :], dtype=np.int64) for row in rows]
    counts = [len(some) for some in ids]
    return Targets(
        ids=torch.from_numpy(np.concatenate(ids)),
        weights=torch.from_numpy(np.repeat([float(row.weight) for row in rows], counts)),
        tasks=torch.from_numpy(np.repeat([tasks[row.task] for row in rows], counts)),
        num_rows=len(rows),
    )
