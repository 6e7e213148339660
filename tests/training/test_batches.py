"""The plan of an epoch: every row once, the same rows a step for any world, nothing too full."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline_lib.config import BatchArithmetic, BatchConfig
from pipeline_lib.config.batches import cut_batch
from pipeline_lib.training.batches import (
    PlannedBatches,
    PlannedRows,
    Step,
    plan_epoch,
    steps_per_epoch,
)


def of_rows(total: int, micro: int, ranks: int) -> BatchArithmetic:
    return cut_batch(BatchConfig(global_batch_size=total, micro_batch_size=micro), ranks)


def of_tokens(total: int, micro: int, ranks: int) -> BatchArithmetic:
    batch = BatchConfig(
        global_batch_size=None,
        global_batch_tokens=total,
        micro_batch_tokens=micro,
        max_seq_len=micro,
    )
    return cut_batch(batch, ranks)


def random_rows(count: int, num_groups: int = 0, seed: int = 0) -> PlannedRows:
    """Rows of 20 to 100 tokens; those of a group share 15."""
    rng = random.Random(seed)
    groups = [f"group-{rng.randrange(num_groups)}" if num_groups else "" for _ in range(count)]
    return PlannedRows(
        lengths=[rng.randrange(20, 101) for _ in range(count)],
        groups=groups,
        prefixes={group: 15 for group in groups if group},
    )


def rows_of(step: Step) -> list[int]:
    return sorted(row for rank in step for micro in rank for row in micro)


CUTS = [of_rows(8, 2, 2), of_rows(12, 4, 3), of_tokens(800, 200, 2), of_tokens(600, 100, 3)]


@pytest.mark.parametrize("arithmetic", CUTS, ids=str)
@pytest.mark.parametrize("num_groups", [0, 7])
def test_every_row_is_in_exactly_one_micro_batch_of_an_epoch(
    arithmetic: BatchArithmetic, num_groups: int
) -> None:
    rows = random_rows(61, num_groups)
    for epoch in range(3):
        steps = plan_epoch(rows, arithmetic, seed=1, epoch=epoch)
        assert sorted(row for step in steps for row in rows_of(step)) == list(range(61))


@pytest.mark.parametrize("arithmetic", CUTS, ids=str)
def test_every_rank_makes_the_same_number_of_passes_and_none_is_too_full(
    arithmetic: BatchArithmetic,
) -> None:
    rows = random_rows(61, num_groups=7)
    for step in plan_epoch(rows, arithmetic, seed=1, epoch=0):
        assert len(step) == arithmetic.num_ranks
        assert {len(rank) for rank in step} == {arithmetic.gradient_accumulation_steps}
        for micro in (micro for rank in step for micro in rank):
            size = len(micro) if arithmetic.unit == "rows" else tokens_of(rows, micro)
            assert size <= arithmetic.micro_batch


def test_a_step_has_the_global_batch_of_rows_and_the_last_one_what_is_left() -> None:
    steps = plan_epoch(random_rows(61, num_groups=7), of_rows(12, 4, 3), seed=0, epoch=0)
    assert [len(rows_of(step)) for step in steps] == [12, 12, 12, 12, 12, 1]


@pytest.mark.parametrize("unit", ["rows", "tokens"])
@pytest.mark.parametrize("num_groups", [0, 7])
def test_the_rows_of_each_step_do_not_depend_on_the_number_of_ranks(
    unit: str, num_groups: int
) -> None:
    rows = random_rows(50, num_groups)
    plans = []
    for ranks in (1, 2, 4):
        arithmetic = of_rows(8, 2, ranks) if unit == "rows" else of_tokens(800, 200, ranks)
        steps = plan_epoch(rows, arithmetic, seed=3, epoch=1)
        plans.append([rows_of(step) for step in steps])
    assert plans[0] == plans[1] == plans[2]


def test_the_order_follows_from_seed_and_epoch() -> None:
    rows, arithmetic = random_rows(40), of_rows(8, 2, 2)
    plans = {
        (seed, epoch): plan_epoch(rows, arithmetic, seed, epoch)
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert plan_epoch(rows, arithmetic, 1, 1) == plans[1, 1]
    assert len({str(plan) for plan in plans.values()}) == 4


def test_micro_batches_are_level_in_tokens() -> None:
    """Four rows of 100 and four of 10, two to a micro batch: one long and one short in each."""
    rows = PlannedRows(lengths=[100, 10, 100, 10, 10, 100, 10, 100])
    (step,) = plan_epoch(rows, of_rows(8, 2, 2), seed=0, epoch=0)
    assert [[tokens_of(rows, micro) for micro in rank] for rank in step] == [[110, 110]] * 2


def test_ranks_have_micro_batches_of_like_size_at_a_time_the_largest_first() -> None:
    rows = PlannedRows(lengths=[40, 10, 30, 20])
    (step,) = plan_epoch(rows, of_rows(4, 1, 2), seed=0, epoch=0)
    assert [[rows.lengths[micro[0]] for micro in rank] for rank in step] == [[40, 10], [30, 20]]


def test_rows_of_a_group_are_in_one_micro_batch_where_it_has_room() -> None:
    rows = PlannedRows(lengths=[50] * 8, groups=list("abababab"), prefixes={"a": 40, "b": 40})
    for arithmetic in (of_rows(8, 4, 2), of_tokens(160, 80, 2)):
        (step,) = plan_epoch(rows, arithmetic, seed=0, epoch=0)
        micro_batches = sorted(sorted(micro) for rank in step for micro in rank)
        assert micro_batches == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_a_group_counts_what_it_shares_once() -> None:
    """40 + 4 x 10 tokens fit into 80; with one token less, the last row waits for the next step."""
    rows = PlannedRows(lengths=[50] * 4, groups=["a"] * 4, prefixes={"a": 40})
    sizes = [
        [len(rows_of(step)) for step in plan_epoch(rows, of_tokens(micro, micro, 1), 0, 0)]
        for micro in (80, 79)
    ]
    assert sizes == [[4], [3, 1]]


def test_where_rows_run_out_micro_batches_are_empty() -> None:
    (step,) = plan_epoch(PlannedRows(lengths=[5, 6, 7]), of_rows(8, 2, 2), seed=0, epoch=0)
    assert sorted(len(micro) for rank in step for micro in rank) == [0, 1, 1, 1]


def test_every_epoch_has_the_number_of_steps_of_the_one_that_needs_most() -> None:
    rows, arithmetic = random_rows(60), of_tokens(260, 130, 2)
    own = [len(plan_epoch(rows, arithmetic, seed=0, epoch=epoch)) for epoch in range(8)]
    assert len(set(own)) > 1, "the rows show nothing"
    num_steps = steps_per_epoch(rows, arithmetic, seed=0, num_epochs=7.5)
    assert num_steps == max(own)
    for epoch in range(8):
        steps = plan_epoch(rows, arithmetic, 0, epoch, num_steps)
        assert len(steps) == num_steps
        assert all(rows_of(step) for step in steps), "a step without rows would not learn"
        assert sorted(row for step in steps for row in rows_of(step)) == list(range(60))


def test_a_step_of_one_group_can_be_cut_too() -> None:
    rows = PlannedRows(lengths=[50] * 4, groups=["a"] * 4, prefixes={"a": 40})
    steps = plan_epoch(rows, of_tokens(80, 80, 1), seed=0, epoch=0, num_steps=3)
    assert sorted(len(rows_of(step)) for step in steps) == [1, 1, 2]


def test_a_row_that_no_micro_batch_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 90 tokens, a micro batch at most 80"):
        plan_epoch(PlannedRows(lengths=[10, 90]), of_tokens(80, 80, 1), seed=0, epoch=0)


def test_the_sampler_of_a_rank_yields_its_part_of_each_epoch() -> None:
    rows, arithmetic = random_rows(20), of_rows(8, 2, 2)
    num_steps = steps_per_epoch(rows, arithmetic, seed=5, num_epochs=2)
    sampler = PlannedBatches(rows, arithmetic, seed=5, rank=1, num_steps=num_steps)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        steps = plan_epoch(rows, arithmetic, seed=5, epoch=epoch)
        assert list(sampler) == [list(micro) for step in steps for micro in step[1]]
    assert len(sampler) == len(list(sampler)) == 6


def test_a_resumed_epoch_begins_where_the_trainer_skips_to() -> None:
    """Accelerate's `skip_first_batches`, which the Trainer resumes with, on the real loader."""
    from accelerate import skip_first_batches

    from pipeline_lib.training.objectives.supervised_trainer import PlannedLoader

    rows, arithmetic = random_rows(20), of_rows(4, 1, 2)
    sampler = PlannedBatches(rows, arithmetic, seed=5, rank=0, num_steps=5)
    loader = PlannedLoader(range(20), batch_sampler=sampler, collate_fn=list)  # type: ignore[arg-type]
    loader.set_epoch(1)
    whole = list(loader)
    loader.set_epoch(0)
    rest: Any = skip_first_batches(loader, 4)
    rest.batch_sampler.batch_sampler.set_epoch(1)  # as the Trainer reaches it
    assert list(rest) == whole[4:]


def tokens_of(rows: PlannedRows, micro: Sequence[int]) -> int:
    """Independent of the planner: each group's prefix counts once."""
    groups = [rows.groups[row] if rows.groups else "" for row in micro]
    repeated = sum(
        (groups.count(group) - 1) * rows.prefixes[group] for group in set(groups) if group
    )
    return sum(rows.lengths[row] for row in micro) - repeated
