"""Makes a micro batch whose cost is close to what its targets need.

RAFT prompts are long and answers short. Three things follow:

- The language-model head, a large share of a small model's work, is computed only at positions
  whose next token is learned (`logits_to_keep`); the trainer takes the loss from these logits.
- Rows are laid end to end in one sequence without padding, and the model's attention is told where
  they end (see `attention`).
- Rows that begin alike, because they ask about one context, are a tree: what they share is there
  once, and each goes on from it.

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
from pipeline_lib.training.examples import Example, ExampleFile, common_prefix_length

MIN_SHARED_TOKENS = 32
"""What is shared is laid out once from here on; below, a call of attention costs more than it."""
_NO_PARENT = -1
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
        share_contexts: whether examples of one prompt group become a tree.
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
        packed = _Packed()
        for shared, rows in self._arranged(examples):
            packed.add(shared, rows)
        if not examples:
            packed.add_nothing()
        return {
            "input_ids": torch.from_numpy(np.concatenate(packed.ids))[None],
            "position_ids": torch.from_numpy(np.concatenate(packed.positions))[None],
            "attention_mask": no_mask(),
            "segments": Segments(tuple(packed.lengths), tuple(packed.parents)),
            "logits_to_keep": torch.from_numpy(np.concatenate(packed.kept)),
            "targets": _targets(packed.rows, self._tasks),
        }

    def _arranged(self, examples: Sequence[Example]) -> list[tuple[int, list[Example]]]:
        """Trees and single rows, each with the number of tokens that are shared in it."""
        groups: dict[str | int, list[Example]] = {}
        for number, example in enumerate(examples):
            name = example.prompt_group if self._share_contexts else ""
            groups.setdefault(name or number, []).append(example)
        arranged: list[tuple[int, list[Example]]] = []
        for rows in groups.values():
            shared = common_prefix_length(rows) if len(rows) > 1 else 0
            if shared >= MIN_SHARED_TOKENS:
                arranged.append((shared, rows))
            else:
                arranged.extend((0, [row]) for row in rows)
        return arranged


class _Packed:
    """A packed sequence in the making."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray[Any, Any]] = []
        self.positions: list[np.ndarray[Any, Any]] = []
        self.kept: list[np.ndarray[Any, Any]] = []
        self.lengths: list[int] = []
        self.parents: list[int] = []
        self.rows: list[Example] = []
        self._length = 0

    def add(self, shared: int, rows: Sequence[Example]) -> None:
        """A row, or several that begin with `shared` tokens alike."""
        parent = _NO_PARENT
        if shared:
            parent = len(self.lengths)
            self._add_segment(np.asarray(rows[0].input_ids[:shared]), 0, _NO_PARENT)
        for row in rows:
            start = self._length - shared  # where the row would begin if it shared nothing
            self._add_segment(np.asarray(row.input_ids[shared:]), shared, parent)
            learned_from = np.arange(row.num_prompt_tokens - 1, len(row.input_ids) - 1)
            self.kept.append(start + learned_from)
            self.rows.append(row)

    def add_nothing(self) -> None:
        """A token of which nothing is learned: its one target weighs nothing."""
        self._add_segment(np.array([_PAD_ID]), 0, _NO_PARENT)
        self.kept.append(np.array([0]))

    def _add_segment(self, ids: np.ndarray[Any, Any], position: int, parent: int) -> None:
        self.ids.append(ids.astype(np.int64))
        self.positions.append(np.arange(position, position + len(ids)))
        self.lengths.append(len(ids))
        self.parents.append(parent)
        self._length += len(ids)


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


def shared_prefixes(examples: ExampleFile) -> dict[str, int]:
    """Of each prompt group with at least two examples, the tokens that all of them begin with."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(examples.prompt_groups):
        if group:
            members.setdefault(group, []).append(index)
    lengths = {
        group: common_prefix_length([examples[index] for index in indices])
        for group, indices in members.items()
        if len(indices) > 1
    }
    return {group: length for group, length in lengths.items() if length >= MIN_SHARED_TOKENS}
