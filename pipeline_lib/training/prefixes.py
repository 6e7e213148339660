"""Rows that begin alike as a tree, in which what they share is there once.

Rows share the instruction, rows about one context its passages too, a pair of answers the whole
prompt. Found are the beginnings of a micro batch's rows that are worth being laid out once: sorted,
rows that share most are neighbours, and each level of the tree is what a run of neighbours has in
common (the intervals of Abouelhoda, Kurtz and Ohlebusch 2004, there for suffixes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline_lib.training.examples import Example, ExampleFile

MIN_SHARED_TOKENS = 32
"""What is shared is laid out once from here on; below, a call of attention costs more than it."""
MIN_SHARE_SAVED = 0.04
"""Of the rows' tokens: keys of shared tokens are copied to each row that sees them."""
NO_PARENT = -1


@dataclass(frozen=True)
class Branch:
    """Tokens of one row, or the same tokens of several, that lie in one place."""

    row: int
    """Index of a row that has them."""
    start: int
    """Where they begin in it."""
    stop: int
    parent: int
    """Index of the branch that this one continues, always an earlier one; -1 where rows begin."""
    is_row: bool
    """Whether the row ends here; each row does in exactly one branch."""

    @property
    def length(self) -> int:
        """In tokens."""
        return self.stop - self.start


def is_worth_sharing(num_shared: int, num_rows: int, num_tokens: int) -> bool:
    """Whether rows are laid out with their beginning once.

    Args:
        num_shared: tokens that they begin with alike.
        num_rows: how many they are.
        num_tokens: of all of them, with what they share counted for each.
    """
    saved = num_shared * (num_rows - 1)
    return num_shared >= MIN_SHARED_TOKENS and saved >= MIN_SHARE_SAVED * num_tokens


def rows_apart(rows: Sequence[Example]) -> list[Branch]:
    """Every row by itself."""
    return [
        Branch(index, 0, len(row.input_ids), NO_PARENT, is_row=True)
        for index, row in enumerate(rows)
    ]


def prefix_tree(rows: Sequence[Example]) -> list[Branch]:
    """The branches of rows, each behind its parent, in the order of the rows as far as that goes.

    Only prompts are shared, and each row keeps at least its prompt's last token for itself: there
    the first of its targets is predicted.

    Example:
        Of three rows of 100 tokens, all begin with 40 alike, the first and the third with 80:
        branches of 40, 40, 20, 20 and 60 tokens, the last two of them the third row's own and the
        second's.
    """
    if len(rows) < 2:
        return rows_apart(rows)
    prompts = [_shareable(row) for row in rows]
    # Big-endian bytes are ordered as the numbers are.
    keys = [prompt.astype(">u4").tobytes() for prompt in prompts]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    alike = [_common_length(prompts[a], prompts[b]) for a, b in pairwise(order)]
    branches: list[Branch] = []
    waiting = [(0, len(order), 0, NO_PARENT)]
    while waiting:
        first, last, start, parent = waiting.pop()
        if last - first == 1:
            row = order[first]
            length = len(rows[row].input_ids)
            branches.append(Branch(row, start, length, parent, is_row=True))
            continue
        shared = min(alike[first : last - 1])
        num_tokens = sum(len(rows[row].input_ids) - start for row in order[first:last])
        if is_worth_sharing(shared - start, last - first, num_tokens):
            branches.append(Branch(order[first], start, shared, parent, is_row=False))
            start, parent = shared, len(branches) - 1
        runs = _runs_that_share_more(alike, first, last, shared)
        in_turn = sorted(runs, key=lambda run: min(order[run[0] : run[1]]), reverse=True)
        waiting.extend((*run, start, parent) for run in in_turn)
    return branches


def _runs_that_share_more(
    alike: Sequence[int], first: int, last: int, shared: int
) -> Iterator[tuple[int, int]]:
    """Neighbours from `first` to `last`, cut where two have no more than `shared` alike."""
    begin = first
    for index in range(first, last - 1):
        if alike[index] == shared:
            yield begin, index + 1
            begin = index + 1
    yield begin, last


def common_prefix_length(rows: Iterable[Example]) -> int:
    """Tokens with which all the prompts begin, as many as leave each at least one of its own."""
    prompts = map(_shareable, rows)
    common = next(prompts)
    for prompt in prompts:
        common = common[: _common_length(common, prompt)]
    return len(common)


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


def _shareable(row: Example) -> np.ndarray[Any, Any]:
    return np.asarray(row.input_ids[: row.num_prompt_tokens - 1])


def _common_length(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> int:
    length = min(len(first), len(second))
    differs = first[:length] != second[:length]
    return int(differs.argmax()) if differs.any() else length
