from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.errors import InputError
from pipeline_lib.raft.rows import SPLITS
from pipeline_lib.raft.splitting import split_documents, wanted_rows

SHARES = {"validation_fraction": 0.1, "test_fraction": 0.3}
MANY = [f"doc-{n}" for n in range(2000)]


@given(
    st.sets(st.text(max_size=8), min_size=3, max_size=12),
    st.integers(0, 50),
    st.floats(0.01, 0.4),
    st.floats(0.01, 0.4),
)
def test_three_documents_suffice_for_three_splits(
    documents: set[str], seed: int, validation: float, test: float
) -> None:
    split_of = split_documents(
        documents, validation_fraction=validation, test_fraction=test, seed=seed
    )
    assert split_of.keys() == documents
    assert set(split_of.values()) == set(SPLITS)


def test_fewer_documents_are_refused() -> None:
    with pytest.raises(InputError, match="2 documents"):
        split_documents(["a", "b", "b"], seed=0, **SHARES)


def test_shares_are_as_configured() -> None:
    counts = Counter(split_documents(MANY, seed=0, **SHARES).values())
    assert counts["test"] / 2000 == pytest.approx(0.3, abs=0.03)
    assert counts["validation"] / 2000 == pytest.approx(0.1, abs=0.03)


def test_peer_bug_the_split_is_not_by_position() -> None:
    """Azure recipe: a sequential 80/10/10 split of rows in document order."""
    split_of = split_documents(MANY, seed=0, **SHARES)
    for part in (MANY[:500], MANY[-500:]):
        assert {split_of[document] for document in part} == set(SPLITS)


def test_the_seed_decides_and_the_order_of_documents_does_not() -> None:
    first = split_documents(MANY, seed=0, **SHARES)
    assert split_documents(MANY[::-1], seed=0, **SHARES) == first
    assert split_documents(MANY, seed=1, **SHARES) != first


def test_documents_keep_their_split_when_others_come_and_go() -> None:
    """So that a test document of one run is never trained on in the next."""
    first = split_documents(MANY, seed=0, **SHARES)
    later = split_documents([*MANY[300:], "new-1", "new-2"], seed=0, **SHARES)
    assert all(later[document] == first[document] for document in MANY[300:])


@given(st.integers(3, 500), st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_every_split_wants_a_row(number: int, validation: float, test: float) -> None:
    wanted = wanted_rows(number, validation_fraction=validation, test_fraction=test)
    assert min(wanted.values()) >= 1
    assert sum(wanted.values()) == number


def test_wanted_rows_follow_the_fractions() -> None:
    assert wanted_rows(100, **SHARES) == {"train": 60, "validation": 10, "test": 30}
