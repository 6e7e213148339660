from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline_lib.raft.candidates import Candidate
from pipeline_lib.raft.gates.round_trip import RoundTrip
from pipeline_lib.retrieval.search import Hit

Make = Callable[..., Candidate]


def hit(chunk_id: str, rank: int, covered: tuple[str, ...] = ()) -> Hit:
    return Hit(
        chunk_id=chunk_id, document_id="d", title="", source_uri="", text="", start=0, end=0,
        rank=rank, score=1.0, covered_ids=covered,
    )  # fmt: skip


def test_every_oracle_must_be_among_the_best(make_candidate: Make) -> None:
    both = make_candidate(texts=["one", "two"])
    hits = (hit("chunk-1", 1), hit("other", 2), hit("chunk-0", 3))
    assert RoundTrip(3).check([replace(both, hits=hits)]) == [None]
    (rejection,) = RoundTrip(2).check([replace(both, hits=hits)])
    assert rejection is not None
    assert (rejection.step, rejection.reason) == ("round_trip", "not_in_top_2")
    assert rejection.text == "chunk-0"


def test_a_hit_that_was_expanded_over_an_oracle_covers_it(make_candidate: Make) -> None:
    expanded = hit("neighbour", 1, ("neighbour", "chunk-0"))
    assert RoundTrip(1).check([make_candidate(hits=[expanded])]) == [None]


def test_unanswerable_questions_and_the_users_skip_it(make_candidate: Make) -> None:
    candidates = [make_candidate(kind="unanswerable"), make_candidate(source="user")]
    assert RoundTrip(5).check(candidates) == [None, None]
