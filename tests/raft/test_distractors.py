from __future__ import annotations

import random

import pytest

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.errors import InputError
from pipeline_lib.raft.distractors import Distractor, DistractorPool, Evidence
from pipeline_lib.retrieval.search import Hit


def make_chunk(chunk_id: str, text: str) -> Chunk:
    return Chunk(
        chunk_id=chunk_id,
        document_id=f"doc-{chunk_id}",
        ordinal=0,
        start=0,
        end=len(text),
        text=text,
        num_tokens=0,
    )


def make_hit(chunk: Chunk, rank: int, score: float) -> Hit:
    return Hit(
        chunk_id=chunk.chunk_id,
        document_id=chunk.document_id,
        title="T",
        source_uri="file:///x",
        text=chunk.text,
        start=0,
        end=chunk.end,
        rank=rank,
        score=score,
    )


ORACLE = make_chunk("oracle", "A fox is red. It sleeps by day in deep burrows under old trees.")
OTHERS = [make_chunk(f"c{n:02}", f"Passage number {n} is about the topic {n}.") for n in range(30)]
EVIDENCE = Evidence(ORACLE, "in deep burrows", ("It sleeps by day",))


def draw(
    chunks, count=4, fraction=0.5, hits=(), seed=0, evidence=EVIDENCE
) -> tuple[list[Distractor] | None, DistractorPool]:
    pool = DistractorPool([ORACLE, *chunks], random_fraction=fraction)
    return pool.draw(count, evidence, hits, random.Random(seed)), pool


def ids(distractors: list[Distractor] | None) -> list[str]:
    assert distractors is not None
    return [distractor.chunk.chunk_id for distractor in distractors]


def hits_of(*chunks) -> list:
    return [make_hit(chunk, rank, 1 / rank) for rank, chunk in enumerate(chunks, start=1)]


def test_hard_ones_come_by_rank_then_random_ones_fill_up() -> None:
    hits = hits_of(ORACLE, OTHERS[7], OTHERS[3], OTHERS[5])
    drawn, _ = draw(OTHERS, hits=hits)
    assert drawn is not None
    assert ids(drawn)[:2] == ["c07", "c03"]
    assert [d.origin for d in drawn] == ["retrieved", "retrieved", "random", "random"]
    assert [(d.rank, d.score) for d in drawn[:2]] == [(2, 0.5), (3, 1 / 3)]


@pytest.mark.parametrize(("fraction", "num_random"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_the_random_share_is_as_configured(fraction: float, num_random: int) -> None:
    drawn, _ = draw(OTHERS, fraction=fraction, hits=hits_of(*OTHERS[:9]))
    assert sum(d.origin == "random" for d in drawn or []) == num_random


def test_random_ones_replace_missing_hits() -> None:
    drawn, _ = draw(OTHERS, fraction=0.0, hits=hits_of(ORACLE, OTHERS[1]))
    assert [d.origin for d in drawn or []] == ["retrieved", "random", "random", "random"]


def test_peer_bug_asking_for_n_gives_n() -> None:
    """llama-index pack: min(n, chunks) - 1, so 3 distractors become 2."""
    for count in range(6):
        drawn, _ = draw(OTHERS[:5], count=count, hits=hits_of(*OTHERS[:5]))
        assert drawn is None or len(drawn) == count
        assert (drawn is None) == (count > 5)


def test_peer_bug_the_oracle_and_duplicates_are_never_distractors() -> None:
    """gorilla raft.py: the replacement for a dropped oracle can duplicate a distractor;
    raft-llm samples with replacement."""
    twin = make_chunk("twin", "Passage  number 3 is about\nthe topic 3.")
    hits = hits_of(OTHERS[3], ORACLE, twin, OTHERS[3], OTHERS[4])
    for seed in range(50):
        drawn, _ = draw([*OTHERS[:6], twin], count=6, hits=hits, seed=seed)
        assert "oracle" not in ids(drawn)
        assert len(set(ids(drawn))) == 6
        assert not {"twin", "c03"} <= set(ids(drawn))


def test_peer_bug_rows_of_one_chunk_get_different_documents() -> None:
    """Curator: an LRU cache gives every question of a chunk the same documents."""
    sets = {tuple(ids(draw(OTHERS, fraction=1.0, seed=seed)[0])) for seed in range(10)}
    assert len(sets) == 10


def test_the_same_seed_draws_the_same() -> None:
    assert ids(draw(OTHERS, seed=4)[0]) == ids(draw(OTHERS, seed=4)[0])
    assert ids(draw(OTHERS[::-1], seed=4)[0]) == ids(draw(OTHERS, seed=4)[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Badgers live IN DEEP\nburrows too.", "contains_answer"),
        ("Rabbits hide in deep, burrows.", "contains_answer"),
        ("Who knows? It sleeps  by day, they say.", "contains_quote"),
    ],
)
def test_passages_that_answer_are_kept_out_and_counted(text: str, reason: str) -> None:
    """A right answer must not be taught to be wrong."""
    bad = make_chunk("bad", text)
    drawn, pool = draw([bad, *OTHERS[:4]], count=4, hits=hits_of(bad))
    assert "bad" not in ids(drawn)
    assert pool.guarded == {reason: 1}


def test_near_duplicates_of_the_oracle_are_kept_out() -> None:
    long = " ".join(f"word{n}" for n in range(40))
    oracle = make_chunk("oracle", long)
    near = make_chunk("near", long.replace("word20", "changed"))
    pool = DistractorPool([oracle, near, *OTHERS[:2]], random_fraction=0.0)
    evidence = Evidence(oracle, "nothing of it", ())
    drawn = pool.draw(2, evidence, hits_of(near), random.Random(0))
    assert "near" not in ids(drawn)
    assert pool.guarded["near_duplicate_of_oracle"] == 1


def test_an_answer_inside_longer_words_does_not_count() -> None:
    chunk = make_chunk("c", "The catalogue is long.")
    evidence = Evidence(ORACLE, "cat", ())
    pool = DistractorPool([ORACLE, chunk], random_fraction=0.0)
    assert ids(pool.draw(1, evidence, [], random.Random(0))) == ["c"]


def test_peer_bug_too_small_a_corpus_is_an_error_with_advice() -> None:
    """gorilla raft.py: `random.sample` raises when chunks <= distractors."""
    pool = DistractorPool([ORACLE, *OTHERS[:3]], random_fraction=0.5)
    pool.check_size(4)
    with pytest.raises(InputError, match="4 different passages, but a row needs 5") as e:
        pool.check_size(5)
    assert "num_distractors" in str(e.value)
