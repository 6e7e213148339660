"""Texts as token ids, cut into length-sorted batches of bounded padded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of several texts, not padded yet."""

    columns: Mapping[str, Sequence[Sequence[int]]]
    """The model's inputs (`input_ids`, `attention_mask`, …), one list per text."""
    shared: Mapping[str, Any]
    """What the model takes that is the same for every text, for example `prompt_length`."""
    lengths: Sequence[int]
    """Tokens per text, special tokens included."""
    num_cut: int
    """Texts that were longer than the model reads."""

    def batch(
        self, rows: Sequence[int], padding: Mapping[str, int], *, pads_left: bool
    ) -> dict[str, Any]:
        """The model's inputs for some of the texts, padded to the longest of them.

        Args:
            rows: which texts.
            padding: column to the value that fills it up; 0 for columns that are not named.
            pads_left: on which side of the text padding goes.
        """
        longest = max(self.lengths[row] for row in rows)
        features: dict[str, Any] = dict(self.shared)
        for name, column in self.columns.items():
            picked = [column[row] for row in rows]
            features[name] = _padded(picked, longest, padding.get(name, 0), pads_left)
        return features


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut indices, longest first, into batches of at most `budget` padded tokens.

    Longest first, so that running out of memory shows at once. A text longer than the budget makes
    a batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _padded(
    sequences: Sequence[Sequence[int]], longest: int, value: int, pads_left: bool
) -> Tensor:
    import torch

    matrix = np.full((len(sequences), longest), value, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        where = slice(longest - len(sequence), None) if pads_left else slice(len(sequence))
        matrix[row, where] = sequence
    return torch.from_numpy(matrix)
