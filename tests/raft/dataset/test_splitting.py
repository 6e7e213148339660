from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.config.synthesis import SplitConfig
from pipeline_lib.corpus.schema import Document
from pipeline_lib.errors import InputError
from pipeline_lib.raft.dataset.groups import group_near_copies
from pipeline_lib.raft.dataset.splitting import (
    read_splits,
    split_documents,
    split_groups,
    wanted_rows,
)
from pipeline_lib.raft.rows import SPLITS, Split

CONFIG = SplitConfig(validation_fraction=0.1, test_fraction=0.3)
MANY = [f"doc-{n}" for n in range(2000)]
TEXT = " ".join(f"word{n}" for n in range(100))
"""A hundred different words; 96 word 5-grams."""


def alone(ids: list[str]) -> list[tuple[str]]:
    return [(name,) for name in ids]


def document(name: str, text: str) -> Document:
    return Document(
        document_id=name,
        source_uri=f"file:///{name}.txt",
        title=name,
        media_type="text/plain",
        text=text,
        content_sha256="",
    )


@given(
    st.sets(st.text(max_size=8), min_size=3, max_size=12),
    st.integers(0, 50),
    st.floats(0.01, 0.4),
    st.floats(0.01, 0.4),
)
def test_three_documents_suffice_for_three_splits(
    documents: set[str], seed: int, validation: float, test: float
) -> None:
    config = SplitConfig(validation_fraction=validation, test_fraction=test)
    plan = split_groups(alone(list(documents)), config, seed)
    assert plan.split_of.keys() == documents
    assert set(plan.split_of.values()) == set(SPLITS)


def test_fewer_documents_are_refused() -> None:
    with pytest.raises(InputError, match="2 documents"):
        split_groups(alone(["a", "b"]), CONFIG, seed=0)


def test_copies_do_not_make_up_for_documents() -> None:
    with pytest.raises(InputError, match=r"2 documents .*\(4 with near-copies\)"):
        split_groups([("a", "b", "c"), ("d",)], CONFIG, seed=0)


def test_shares_are_as_configured() -> None:
    counts = Counter(split_groups(alone(MANY), CONFIG, seed=0).split_of.values())
    assert counts["test"] / 2000 == pytest.approx(0.3, abs=0.03)
    assert counts["validation"] / 2000 == pytest.approx(0.1, abs=0.03)


def test_the_seed_decides_and_the_order_of_documents_does_not() -> None:
    first = split_groups(alone(MANY), CONFIG, seed=0)
    assert split_groups(alone(MANY[::-1]), CONFIG, seed=0) == first
    assert split_groups(alone(MANY), CONFIG, seed=1) != first


def test_documents_keep_their_split_when_others_come_and_go() -> None:
    """So that a test document of one run is never trained on in the next."""
    first = split_groups(alone(MANY), CONFIG, seed=0).split_of
    later = split_groups(alone([*MANY[300:], "new-1", "new-2"]), CONFIG, seed=0).split_of
    assert all(later[name] == first[name] for name in MANY[300:])


def test_near_copies_share_a_split() -> None:
    """Of 96 5-grams, a new last word changes one: the similarity is 95/97."""
    documents = [document(f"{n:03}", f"{TEXT} {n}") for n in range(40)]
    others = [document(f"x{n}", f"only {n} has " * 20) for n in range(40)]
    plan = split_documents([*documents, *others], CONFIG, seed=3)
    assert len({plan.split_of[each.document_id] for each in documents}) == 1
    assert plan.groups == (tuple(each.document_id for each in documents),)
    assert set(plan.split_of.values()) == set(SPLITS)


@given(st.permutations(range(12)))
def test_groups_do_not_depend_on_the_order_of_documents(order: list[int]) -> None:
    """A chain: each is nearly the next, the ends share nothing."""
    words = [f"w{n}" for n in range(400)]
    texts = {f"c{n}": " ".join(words[n * 8 : n * 8 + 200]) for n in range(11)} | {"other": "a b"}
    names = [list(texts)[n] for n in order]
    groups = group_near_copies(((name, texts[name]) for name in names), 0.8)
    assert sorted(map(sorted, groups)) == [sorted(texts.keys() - {"other"}), ["other"]]


def test_texts_that_only_share_a_part_are_no_group() -> None:
    """Half of the words shared: a third of the 5-grams of both."""
    other = " ".join(f"word{n}" for n in range(50, 150))
    assert sorted(group_near_copies([("a", TEXT), ("b", other)], 0.8)) == [["a"], ["b"]]


def test_short_texts_are_copies_only_when_they_are_equal_but_for_white_space() -> None:
    texts = [("a", "one two"), ("b", " one\n two "), ("c", "one two three")]
    assert sorted(group_near_copies(texts, 0.8)) == [["a", "b"], ["c"]]


def test_a_group_stays_where_a_known_document_of_it_is() -> None:
    """A new copy has a smaller id, by which the group would go elsewhere."""
    for name in MANY[:200]:
        plan = split_groups(
            [("a-new-copy", name), *alone(MANY[200:400])], CONFIG, 0, {name: "test"}
        )
        assert plan.split_of["a-new-copy"] == plan.split_of[name] == "test"
        assert plan.moved == ()


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"a": "train", "b": "test"}, "test"),
        ({"a": "train", "b": "validation"}, "validation"),
        ({"a": "validation", "b": "test"}, "test"),
    ],
)
def test_where_joined_documents_disagree_no_test_question_is_trained_on(
    known: dict[str, Split], expected: Split
) -> None:
    plan = split_groups([("a", "b"), *alone(MANY)], CONFIG, 0, known)
    assert plan.split_of["a"] == plan.split_of["b"] == expected
    assert plan.moved == ("a",)


def test_known_documents_are_moved_into_an_empty_split_last() -> None:
    known: dict[str, Split] = {"a": "test", "b": "train", "c": "train"}
    plan = split_groups(alone(["a", "b", "c", "d"]), CONFIG, 0, known)
    assert plan.split_of == {"a": "test", "b": "train", "c": "train", "d": "validation"}
    assert plan.moved == ()


def test_every_split_has_a_document_that_can_be_asked_about() -> None:
    for seed in range(30):
        plan = split_groups(alone(MANY[:30]), CONFIG, seed, askable=MANY[:3])
        assert {plan.split_of[name] for name in MANY[:3]} == set(SPLITS)
        assert len(plan.split_of) == 30
    with pytest.raises(InputError, match="2 documents can be asked about"):
        split_groups(alone(MANY[:30]), CONFIG, 0, askable=MANY[:2])


def test_what_cannot_be_asked_about_moves_nothing_that_can() -> None:
    few = split_groups(alone(MANY[:300]), CONFIG, seed=0).split_of
    more = split_groups(alone(MANY), CONFIG, seed=0, askable=MANY[:300]).split_of
    assert few.items() <= more.items()


def test_documents_that_are_gone_do_no_harm() -> None:
    plan = split_groups(alone(["a", "b", "c"]), CONFIG, 0, {"gone": "test"})
    assert plan.split_of.keys() == {"a", "b", "c"}


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = split_groups([("a", "b"), ("c",), ("d",)], CONFIG, seed=0)
    plan.write(tmp_path)
    assert read_splits(tmp_path) == plan.split_of
    assert sorted(name for split in SPLITS for name in plan.documents(split)) == list("abcd")


@given(st.integers(3, 500), st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_every_split_wants_a_row(number: int, validation: float, test: float) -> None:
    wanted = wanted_rows(number, SplitConfig(validation_fraction=validation, test_fraction=test))
    assert min(wanted.values()) >= 1
    assert sum(wanted.values()) == number


def test_wanted_rows_follow_the_fractions() -> None:
    assert wanted_rows(100, CONFIG) == {"train": 60, "validation": 10, "test": 30}
