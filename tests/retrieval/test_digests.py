"""Sets of point ids and digests, against Python's own sets."""

from __future__ import annotations

import random
import uuid

from pipeline_lib.retrieval.digests import PointDigests

DIGEST = "00000000000000ff"


def ids(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [str(uuid.UUID(int=generator.getrandbits(128), version=4)) for _ in range(count)]


def test_a_comparison_finds_missing_changed_and_foreign_points():
    points = ids(300)
    wanted = {point: f"{n:016x}" for n, point in enumerate(points[:200])}
    found = {point: f"{n:016x}" for n, point in enumerate(points[:150])}
    changed = points[:7]
    found |= dict.fromkeys(changed, "f" * 16) | dict.fromkeys(points[250:], "0" * 16)
    difference = PointDigests.of(wanted.items()).compare(PointDigests.of(found.items()))
    assert set(difference.missing) == wanted.keys() - found.keys()
    assert set(difference.foreign) == found.keys() - wanted.keys()
    assert set(difference.changed) == set(changed)


def test_equal_points_differ_in_nothing_whatever_their_order():
    pairs = [(point, DIGEST) for point in ids(50)]
    one, other = PointDigests.of(pairs), PointDigests.of(reversed(pairs))
    difference = one.compare(other)
    assert [len(difference.missing), len(difference.changed), len(difference.foreign)] == [0, 0, 0]
    assert one.sha256() == other.sha256()
    assert one.sha256() != PointDigests.of(pairs[1:]).sha256()
    assert one.sha256() != PointDigests.of([(pairs[0][0], "1" * 16), *pairs[1:]]).sha256()


def test_no_points_differ_from_some():
    some, none = PointDigests.of([(point, DIGEST) for point in ids(3)]), PointDigests.of([])
    assert len(some.compare(none).missing) == len(none.compare(some).foreign) == 3
    assert none.ids.contains(ids(2)) == [False, False]
    assert list(none.ids.sample(5, 0)) == []


def test_ids_survive_whatever_bytes_they_end_in():
    # Fixed-width byte strings lose trailing zeros in numpy when taken out one by one.
    awkward = ["12345678-1234-4234-8234-123456780000", "12345678-1234-4234-8234-123456780100"]
    digests = PointDigests.of((point, DIGEST) for point in awkward)
    assert list(digests.ids) == awkward
    assert digests.ids.contains([*awkward, "12345678-1234-4234-8234-123456780001"]) == [
        True,
        True,
        False,
    ]


def test_numbers_are_ids_too_and_stay_numbers():
    assert list(PointDigests.of([(7, None), (2**63, "not hex")]).ids) == [7, 2**63]


def test_a_sample_is_drawn_without_repetition_and_repeats_with_its_seed():
    everything = PointDigests.of((point, DIGEST) for point in ids(100)).ids
    sample = list(everything.sample(20, seed=3))
    assert len(set(sample)) == 20
    assert sample == list(everything.sample(20, seed=3)) != list(everything.sample(20, seed=4))
    assert set(everything.sample(1_000, seed=0)) == set(everything)


def test_repeated_ids_are_named():
    [point, other] = ids(2)
    digests = PointDigests.of([(point, DIGEST), (other, DIGEST), (point, DIGEST)])
    assert digests.repeated().examples() == (point,)
