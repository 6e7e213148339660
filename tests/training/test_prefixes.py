"""Rows that begin alike become a tree, and every row can be read off it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.training.examples import Example, ExampleFile, write_examples
from pipeline_lib.training.prefixes import (
    MIN_SHARED_TOKENS,
    NO_PARENT,
    Branch,
    common_prefix_length,
    is_worth_sharing,
    prefix_tree,
    rows_apart,
    shared_prefixes,
)


def test_the_worked_example() -> None:
    all_share, two_share = range(40), range(100, 140)
    rows = [
        _row(*all_share, *two_share, *range(200, 220)),
        _row(*all_share, *range(300, 360)),
        _row(*all_share, *two_share, *range(400, 420)),
    ]
    assert [(b.row, b.start, b.stop, b.parent, b.is_row) for b in prefix_tree(rows)] == [
        (0, 0, 40, -1, False),
        (0, 40, 80, 0, False),
        (0, 80, 100, 1, True),
        (2, 80, 100, 1, True),
        (1, 40, 100, 0, True),
    ]


def test_what_few_rows_share_is_left_where_it_is_little() -> None:
    rows = [_row(*range(MIN_SHARED_TOKENS - 1), *range(at, at + 60)) for at in (100, 200)]
    assert prefix_tree(rows) == rows_apart(rows)


def test_an_instruction_and_a_context_are_two_levels() -> None:
    instruction, context = range(50), range(1000, 1400)
    rows = [
        _row(*instruction, *context, *range(2000, 2030)),
        _row(*instruction, *range(3000, 3400)),
        _row(*instruction, *context, *range(4000, 4020)),
    ]
    tree = prefix_tree(rows)
    assert [(branch.length, branch.parent) for branch in tree] == [
        (50, -1),
        (400, 0),
        (30, 1),
        (20, 1),
        (400, 0),
    ]


def test_a_short_beginning_of_long_rows_is_not_worth_it() -> None:
    """Each row would get a copy of keys for nothing."""
    beginning = range(MIN_SHARED_TOKENS)
    rows = [_row(*beginning, *range(at, at + 4000)) for at in (1000, 6000)]
    assert prefix_tree(rows) == rows_apart(rows)
    assert is_worth_sharing(MIN_SHARED_TOKENS, num_rows=2, num_tokens=800)
    assert not is_worth_sharing(MIN_SHARED_TOKENS - 1, num_rows=2, num_tokens=100)


def test_rows_that_are_the_same_keep_their_own_targets() -> None:
    rows = [_row(*range(60)) for _ in range(3)]
    tree = prefix_tree(rows)
    assert [(b.start, b.stop, b.parent) for b in tree] == [
        (0, 57, -1),
        (57, 60, 0),
        (57, 60, 0),
        (57, 60, 0),
    ]


def test_no_rows_and_one_row() -> None:
    assert prefix_tree([]) == []
    assert prefix_tree([_row(1, 2, 3)]) == [Branch(0, 0, 3, NO_PARENT, is_row=True)]


_BEGINNINGS = st.lists(st.sampled_from([range(40), range(100, 150), range(1, 41)]), max_size=3)
_ENDS = st.lists(st.integers(0, 2), min_size=3, max_size=90)


@given(st.lists(st.tuples(_BEGINNINGS, _ENDS), max_size=12))
def test_every_row_can_be_read_off_the_tree(drawn: list[tuple[list[range], list[int]]]) -> None:
    rows = [_row(*(i for part in begin for i in part), *end) for begin, end in drawn]
    tree = prefix_tree(rows)
    found = {}
    for index, branch in enumerate(tree):
        assert branch.parent < index
        if branch.is_row:
            assert branch.row not in found
            found[branch.row] = _read(tree, index, rows)
        else:
            assert branch.stop < rows[branch.row].num_prompt_tokens, "targets are a row's own"
    assert [found[index] for index in range(len(rows))] == [row.input_ids for row in rows]
    assert sum(b.length for b in tree) <= sum(len(row.input_ids) for row in rows)


def _read(tree: Sequence[Branch], index: int, rows: Sequence[Example]) -> tuple[int, ...]:
    branch = tree[index]
    before = () if branch.parent == NO_PARENT else _read(tree, branch.parent, rows)
    assert len(before) == branch.start
    return (*before, *rows[branch.row].input_ids[branch.start : branch.stop])


def _row(*ids: int) -> Example:
    """Whose last two tokens are learned."""
    return Example("row", ids, len(ids) - 2)


def test_the_prefix_of_a_group_leaves_every_prompt_a_token_of_its_own(tmp_path: Path) -> None:
    prompt = tuple(range(40))
    rows = [
        Example("a", (*prompt, 7, 8), 40, prompt_group="same prompts"),
        Example("b", (*prompt, 9, 8), 40, prompt_group="same prompts"),
        Example("c", (*prompt[:35], 1, 2, 3), 37, prompt_group="differ early"),
        Example("d", (*prompt, 9, 8), 40, prompt_group="differ early"),
        Example("e", (*prompt, 9, 8), 40, prompt_group="one row"),
        Example("f", (*prompt, 9, 8), 40),
    ]
    write_examples(tmp_path / "examples.arrow", rows)
    found = shared_prefixes(ExampleFile(tmp_path / "examples.arrow"))
    assert common_prefix_length(rows) == 35
    assert found == {"same prompts": 39, "differ early": 35}
