from __future__ import annotations

from collections import Counter
from itertools import islice

from pipeline_lib.raft.contexts.ring import HashRing

NAMES = [f"n{number:04}" for number in range(1000)]


def first(ring: HashRing, key: str, count: int = 3) -> list[str]:
    return list(islice(ring.walk(key), count))


def test_a_walk_meets_every_name_once() -> None:
    for size in (0, 1, 2, 7, 200):
        for key in ("a", "b"):
            assert sorted(HashRing(NAMES[:size], 1).walk(key)) == NAMES[:size]


def test_key_and_seed_decide_and_the_order_of_names_does_not() -> None:
    assert first(HashRing(NAMES, 1), "a") == first(HashRing(NAMES[::-1], 1), "a")
    assert len({tuple(first(HashRing(NAMES, 1), key)) for key in "abcdef"}) == 6
    assert len({tuple(first(HashRing(NAMES, seed), "a")) for seed in range(6)}) == 6


def test_a_name_that_goes_changes_the_draws_that_met_it_and_few_others() -> None:
    """Shuffling the whole corpus would change nearly all."""
    whole, without = HashRing(NAMES, 1), HashRing(NAMES[1:], 1)
    changed = [key for key in map(str, range(300)) if first(whole, key) != first(without, key)]
    met = [key for key in map(str, range(300)) if NAMES[0] in first(whole, key)]
    assert set(met) <= set(changed)
    assert len(changed) <= len(met) + 6


def test_draws_are_even() -> None:
    """3,000 draws of 1,000 names: 3 each, and 95% missed at least once (1 - exp(-3))."""
    ring = HashRing(NAMES, 1)
    picks = Counter(name for key in range(1000) for name in first(ring, str(key)))
    assert len(picks) > 900
    assert max(picks.values()) <= 14


def test_names_drawn_together_are_no_neighbours_on_the_ring() -> None:
    """Else the same passages would accompany each other in row after row."""
    ring = HashRing(NAMES, 1)
    pairs = Counter(tuple(sorted(first(ring, str(key), 2))) for key in range(1000))
    assert max(pairs.values()) <= 2
