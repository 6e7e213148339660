"""Which rows each rank learns from in each step of an epoch: planned ahead, the same everywhere.

Every rank plans the whole epoch from the lengths of all rows, the seed and the epoch's number, and
takes its part. So nothing is sent around, a resumed run goes on in the same order, and as the rows
of a step do not depend on the number of ranks, it may go on with more or fewer of them.

A step is cut into `num_ranks x gradient_accumulation_steps` micro batches. All ranks work on
micro batches of about equal size at a time, the largest first: under ZeRO 3 each layer waits for
the slowest rank. Where rows run out, micro batches are empty; every rank makes each forward pass.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline_lib.config import BatchArithmetic

MicroBatch = tuple[int, ...]
"""Indices of rows; empty where there are none left."""
Step = list[list[MicroBatch]]
"""The micro batches of each rank."""
_Unit = tuple[int, ...]
"""Rows that stay together."""
_Micro = list[_Unit]
_Items = TypeVar("_Items", _Unit, _Micro, list[_Micro])


@dataclass(frozen=True, kw_only=True)
class PlannedRows:
    """What a plan is made from."""

    lengths: Sequence[int]
    """Of the rows, in tokens."""
    groups: Sequence[str] = ()
    """Of each row the name of its group, whose rows stay together; '' for none."""
    prefixes: Mapping[str, int] = field(default_factory=dict)
    """Tokens that the rows of a group share; in one micro batch they count once."""

    def num_tokens(self, unit: _Unit) -> int:
        """Of rows in one micro batch; they belong to one group if they are more than one."""
        shared = self.prefixes.get(self.groups[unit[0]], 0) if len(unit) > 1 else 0
        return sum(self.lengths[row] for row in unit) - shared * (len(unit) - 1)

    def units(self) -> list[_Unit]:
        """The groups, and every other row by itself, in the order of their first rows."""
        found: dict[str | int, list[int]] = {}
        for row in range(len(self.lengths)):
            group = self.groups[row] if self.groups else ""
            found.setdefault(group or row, []).append(row)
        return [tuple(rows) for rows in found.values()]


def plan_epoch(
    rows: PlannedRows,
    arithmetic: BatchArithmetic,
    seed: int,
    epoch: int,
    num_steps: int | None = None,
) -> list[Step]:
    """The steps of one epoch; every row is in exactly one.

    Args:
        rows: of the training set.
        arithmetic: how a step is cut. In rows, every step but the last has `global_batch` of them;
            in tokens, a step takes rows in order for as long as they fit.
        seed: of the order.
        epoch: its number, from 0; each has its own order.
        num_steps: at least so many (see `steps_per_epoch`); where fewer would do, the largest are
            cut in two.

    Raises:
        ValueError: a row has more tokens than a micro batch may have.
    """
    order = _shuffled(rows, seed, epoch)
    if arithmetic.unit == "rows":
        levelled = [_level_by_rows(units, rows, arithmetic) for units in _cut(order, arithmetic)]
    else:
        taken = _take_by_tokens(order, rows, arithmetic)
        while len(taken) < (num_steps or 0):
            _cut_largest(taken)
        levelled = [_level_by_tokens(some, rows, arithmetic) or some for some in taken]
    return [_dealt(some, rows, arithmetic) for some in levelled]


def steps_per_epoch(
    rows: PlannedRows,
    arithmetic: BatchArithmetic,
    seed: int,
    num_epochs: float,
    max_steps: int = -1,
) -> int:
    """How many steps every epoch of a training has.

    The learning rate's schedule and a resumed run count on one number. In tokens, epochs by
    themselves need different numbers of steps; it is that of the epoch which needs most.

    Args:
        rows: of the training set.
        arithmetic: how a step is cut.
        seed: of the order.
        num_epochs: that will be made.
        max_steps: of all epochs together, instead; -1 for none.
    """
    if arithmetic.unit == "rows":
        return math.ceil(len(rows.lengths) / arithmetic.global_batch)
    needed = len(_take_by_tokens(_shuffled(rows, seed, 0), rows, arithmetic))
    last = math.ceil(num_epochs if max_steps < 0 else max_steps / needed)
    for epoch in range(1, last):
        taken = _take_by_tokens(_shuffled(rows, seed, epoch), rows, arithmetic)
        needed = max(needed, len(taken))
    return needed


def _shuffled(rows: PlannedRows, seed: int, epoch: int) -> list[_Unit]:
    order = rows.units()
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311
    return order


def _cut(order: Sequence[_Unit], arithmetic: BatchArithmetic) -> list[list[_Unit]]:
    """Steps of exactly `global_batch` rows; a group at the border of two is cut."""
    steps: list[list[_Unit]] = [[]]
    free = arithmetic.global_batch
    for unit in order:
        rest = unit
        while rest:
            if not free:
                steps.append([])
                free = arithmetic.global_batch
            size = min(free, arithmetic.micro_batch, len(rest))
            steps[-1].append(rest[:size])
            rest = rest[size:]
            free -= size
    return steps


def _level_by_rows(
    units: Sequence[_Unit], rows: PlannedRows, arithmetic: BatchArithmetic
) -> list[_Micro]:
    """Largest first, each into the micro batch with the fewest tokens that has room for it.

    A group for which none has room is taken apart.
    """
    num_micro = arithmetic.num_ranks * arithmetic.gradient_accumulation_steps
    made: list[_Micro] = [[] for _ in range(num_micro)]
    free = [(0, index, arithmetic.micro_batch) for index in range(num_micro)]
    waiting = [(-len(unit), -rows.num_tokens(unit), unit) for unit in units]
    heapq.heapify(waiting)
    while waiting:
        unit = heapq.heappop(waiting)[2]
        too_small = []
        while free and free[0][2] < len(unit):
            too_small.append(heapq.heappop(free))
        if free:
            tokens, index, slots = heapq.heappop(free)
            made[index].append(unit)
            if slots > len(unit):
                heapq.heappush(free, (tokens + rows.num_tokens(unit), index, slots - len(unit)))
        else:
            size = max(slots for _, _, slots in too_small)
            for part in (unit[:size], unit[size:]):
                heapq.heappush(waiting, (-len(part), -rows.num_tokens(part), part))
        for entry in too_small:
            heapq.heappush(free, entry)
    return made


def _take_by_tokens(
    order: Sequence[_Unit], rows: PlannedRows, arithmetic: BatchArithmetic
) -> list[list[_Micro]]:
    """Steps of rows in order, each with as many as fit into its micro batches.

    A row goes into the fullest micro batch that has room for it; where none has, the step ends.
    """
    steps: list[list[_Micro]] = []
    room: list[int] = []
    for unit in order:
        for part in _parts_that_fit(unit, rows, arithmetic.micro_batch):
            num_tokens = rows.num_tokens(part)
            fitting = [(left, index) for index, left in enumerate(room) if left >= num_tokens]
            if not fitting:
                num_micro = arithmetic.num_ranks * arithmetic.gradient_accumulation_steps
                steps.append([[] for _ in range(num_micro)])
                room = [arithmetic.micro_batch] * num_micro
            index = min(fitting)[1] if fitting else 0
            room[index] -= num_tokens
            steps[-1][index].append(part)
    return steps


def _parts_that_fit(unit: _Unit, rows: PlannedRows, most_tokens: int) -> Iterator[_Unit]:
    part: _Unit = ()
    for row in unit:
        if rows.lengths[row] > most_tokens:
            raise ValueError(
                f"row {row} has {rows.lengths[row]} tokens, a micro batch at most {most_tokens}"
            )
        if rows.num_tokens((*part, row)) > most_tokens:
            yield part
            part = ()
        part = (*part, row)
    yield part


def _cut_largest(steps: list[list[_Micro]]) -> None:
    """Make two steps of the one with the most rows; the first of them, if there are several."""
    sizes = [sum(len(unit) for micro in step for unit in micro) for step in steps]
    index = sizes.index(max(sizes))
    step = steps[index]
    used = [micro for micro in step if micro]
    halves: tuple[list[_Micro], list[_Micro]]
    if len(used) > 1:
        halves = _halves(used)
    elif len(used[0]) > 1:  # one micro batch: cut between its groups
        first, second = _halves(used[0])
        halves = [first], [second]
    else:  # one group: cut between its rows
        first_rows, second_rows = _halves(used[0][0])
        halves = [[first_rows]], [[second_rows]]
    steps[index : index + 1] = [half + [[] for _ in step[len(half) :]] for half in halves]


def _halves(items: _Items) -> tuple[_Items, _Items]:
    middle = len(items) // 2
    return items[:middle], items[middle:]


def _level_by_tokens(
    taken: Sequence[_Micro], rows: PlannedRows, arithmetic: BatchArithmetic
) -> list[_Micro] | None:
    """Largest first, each into the micro batch with the fewest tokens; `None` if one overflows."""
    made: list[_Micro] = [[] for _ in taken]
    used = [(0, index) for index in range(len(taken))]
    units = [unit for micro in taken for unit in micro]
    for negative, unit in sorted((-rows.num_tokens(unit), unit) for unit in units):
        tokens, index = used[0][0] - negative, used[0][1]
        if tokens > arithmetic.micro_batch:
            return None
        made[index].append(unit)
        heapq.heapreplace(used, (tokens, index))
    return made


def _dealt(made: Sequence[_Micro], rows: PlannedRows, arithmetic: BatchArithmetic) -> Step:
    """Deal micro batches to the ranks, those of like size at a time, back and forth."""
    largest_first = sorted(made, key=lambda units: -sum(map(rows.num_tokens, units)))
    step: Step = [[] for _ in range(arithmetic.num_ranks)]
    for turn in range(arithmetic.gradient_accumulation_steps):
        at_a_time = largest_first[turn * arithmetic.num_ranks :][: arithmetic.num_ranks]
        for rank, units in enumerate(at_a_time if turn % 2 == 0 else at_a_time[::-1]):
            step[rank].append(tuple(row for unit in units for row in unit))
    return step


class PlannedBatches:
    """The micro batches of one rank, epoch after epoch: a batch sampler for torch's `DataLoader`.

    Args:
        rows: of the training set.
        arithmetic: how a step is cut.
        seed: of the order.
        rank: whose micro batches these are.
        num_steps: of every epoch; see `steps_per_epoch`.
    """

    def __init__(
        self,
        rows: PlannedRows,
        arithmetic: BatchArithmetic,
        *,
        seed: int,
        rank: int,
        num_steps: int,
    ) -> None:
        self._rows, self._arithmetic = rows, arithmetic
        self._seed, self._rank, self._epoch = seed, rank, 0
        self._num_steps = num_steps

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next; from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        steps = plan_epoch(
            self._rows, self._arithmetic, self._seed, self._epoch, num_steps=self._num_steps
        )
        for step in steps:
            yield from map(list, step[self._rank])

    def __len__(self) -> int:
        return self._num_steps * self._arithmetic.gradient_accumulation_steps
