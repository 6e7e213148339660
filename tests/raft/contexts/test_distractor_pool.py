from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.contexts.distractors import Choice, Distractor, DistractorPool
from pipeline_lib.retrieval.hits import Hit
from tests.corpus.made_corpora import make_chunk
from tests.raft.contexts.made_questions import ask_about, group_of, hits_of

ORACLE = make_chunk("oracle", "A fox is red. It sleeps by day in deep burrows under old trees.")
OTHERS = [make_chunk(f"c{n:02}", f"Passage number {n} is about the topic {n}.") for n in range(30)]


class Nobody:
    def refusal(self, row_id: str, chunk_id: str) -> str | None:
        return None


class Objector:
    def __init__(self, *chunk_ids: str) -> None:
        self._chunk_ids = chunk_ids

    def refusal(self, row_id: str, chunk_id: str) -> str | None:
        return "judged_to_answer" if chunk_id in self._chunk_ids else None


@pytest.fixture
def choose():
    """Distractors of a question about `ORACLE` in a corpus of `chunks`."""

    def run(
        chunks: Sequence[Chunk],
        counts: dict,
        *,
        hits: Sequence[Hit] = (),
        seed: int = 0,
        question: str = "Where does it sleep?",
        made_up: Sequence[Distractor] = (),
        refusals: object = None,
    ) -> Choice | None:
        pool = DistractorPool([ORACLE, *chunks], seed=seed)
        candidate = ask_about(
            ORACLE,
            answer="in deep burrows",
            quotes=["It sleeps by day"],
            question=question,
            hits=tuple(hits),
        )
        return pool.choose(group_of(candidate), counts, made_up, refusals or Nobody())

    return run


def ids(choice: Choice | None) -> list[str]:
    assert choice is not None
    return [distractor.chunk_id for distractor in choice.distractors]


def origins(choice: Choice | None) -> list[str]:
    assert choice is not None
    return [distractor.origin for distractor in choice.distractors]


def test_hard_ones_come_by_rank_then_random_ones_fill_up(choose) -> None:
    hits = hits_of(ORACLE, OTHERS[7], OTHERS[3], OTHERS[5])
    choice = choose(OTHERS, {"retrieved": 2, "random": 2}, hits=hits)
    assert ids(choice)[:2] == ["c07", "c03"]
    assert origins(choice) == ["retrieved", "retrieved", "random", "random"]


def test_retrieved_then_random_ones_replace_what_is_missing(choose) -> None:
    short = choose(OTHERS, {"retrieved": 4}, hits=hits_of(ORACLE, OTHERS[1]))
    assert origins(short) == ["retrieved", "random", "random", "random"]
    counts = {"retrieved": 1, "same_document": 1, "adversarial": 1, "random": 1}
    nothing_else = choose(OTHERS, counts, hits=hits_of(*OTHERS[:9]))
    assert ids(nothing_else)[:3] == ["c00", "c01", "c02"]
    assert origins(nothing_else) == ["retrieved", "retrieved", "retrieved", "random"]


def test_passages_of_the_oracles_document_can_be_asked_for(choose) -> None:
    near = [make_chunk(f"n{n}", f"The fox has {n} cubs.", "doc-oracle") for n in range(2, 9)]
    choice = choose([*OTHERS, *near], {"same_document": 2, "random": 1})
    assert set(ids(choice)[:2]) <= {chunk.chunk_id for chunk in near}
    assert origins(choice) == ["same_document", "same_document", "random"]
    drawn = {
        tuple(ids(choose([*OTHERS, *near], {"same_document": 2}, question=f"{n}?")))
        for n in range(9)
    }
    assert len(drawn) > 4


def test_peer_bug_asking_for_n_gives_n_or_nothing(choose) -> None:
    """llama-index pack: min(n, chunks) - 1, so 3 distractors become 2."""
    for count in range(8):
        choice = choose(OTHERS[:5], {"retrieved": count}, hits=hits_of(*OTHERS[:5]))
        assert (choice is None) == (count > 5)
        assert choice is None or len(choice.distractors) == count


def test_peer_bug_the_oracle_and_duplicates_are_never_distractors(choose) -> None:
    """gorilla raft.py: the replacement for a dropped oracle can duplicate a distractor;
    raft-llm samples with replacement."""
    twin = make_chunk("twin", "Passage  number 3 is about\nthe topic 3.")
    oracle_twin = make_chunk("copy", ORACLE.text.replace(" ", "  "))
    hits = hits_of(OTHERS[3], ORACLE, twin, oracle_twin, OTHERS[3], OTHERS[4])
    for seed in range(30):
        corpus = [*OTHERS[:6], twin, oracle_twin]
        chosen = ids(choose(corpus, {"retrieved": 3, "random": 3}, hits=hits, seed=seed))
        assert not {"oracle", "copy"} & set(chosen)
        assert len(set(chosen)) == 6
        assert not {"twin", "c03"} <= set(chosen)


def test_peer_bug_no_oracle_of_a_row_is_its_distractor() -> None:
    second = make_chunk("second", "Foxes that live in towns eat what people leave.")
    pool = DistractorPool([ORACLE, second, *OTHERS[:3]], seed=0)
    candidate = ask_about(ORACLE, second, answer="x", hits=hits_of(second, ORACLE))
    for probability in (0.0, 1.0):
        group = group_of(candidate, oracle_probability=probability)
        choice = pool.choose(group, {"retrieved": 3}, (), Nobody())
        assert set(ids(choice)) == {"c00", "c01", "c02"}


def test_peer_bug_questions_about_one_chunk_get_different_documents(choose) -> None:
    """Curator: an LRU cache gives every question of a chunk the same documents."""
    drawn = {tuple(ids(choose(OTHERS, {"random": 4}, question=f"q{n}?"))) for n in range(10)}
    assert len(drawn) == 10


def test_the_same_seed_draws_the_same(choose) -> None:
    counts = {"random": 4}
    assert ids(choose(OTHERS, counts, seed=4)) == ids(choose(OTHERS[::-1], counts, seed=4))
    assert ids(choose(OTHERS, counts, seed=4)) != ids(choose(OTHERS, counts, seed=5))


def test_what_the_guard_keeps_out_is_counted_and_replaced(choose) -> None:
    """A right answer must not be taught to be wrong."""
    bad = make_chunk("bad", "Badgers sleep in deep burrows too.")
    worse = make_chunk("worse", "They say: It sleeps by day.")
    choice = choose(
        [bad, worse, *OTHERS[:4]], {"retrieved": 2, "random": 2}, hits=hits_of(bad, worse)
    )
    assert set(ids(choice)) == {"c00", "c01", "c02", "c03"}
    assert choice.guarded == {"contains_answer": 1, "contains_quote": 1}


def test_what_a_reader_objects_to_is_left_out_of_retrieved_passages(choose) -> None:
    hits = hits_of(*OTHERS[:5])
    choice = choose(OTHERS, {"retrieved": 2}, hits=hits, refusals=Objector("c00", "c02"))
    assert ids(choice) == ["c01", "c03"]
    assert choice.guarded == {"judged_to_answer": 2}


def test_made_up_passages_are_taken_as_far_as_they_are_wanted(choose) -> None:
    made_up = [
        Distractor(
            chunk_id=f"made-up-{n}",
            document_id="doc-oracle",
            text=ORACLE.text.replace("deep", f"deeper {n}"),
            origin="adversarial",
            source_chunk_id="oracle",
        )
        for n in range(3)
    ]
    choice = choose(OTHERS, {"adversarial": 2, "random": 1}, made_up=made_up)
    assert ids(choice)[:2] == ["made-up-0", "made-up-1"]
    assert origins(choice)[2] == "random"


def test_hits_that_the_corpus_does_not_have_are_passed_over(choose) -> None:
    stale = make_chunk("stale", "This passage was deleted.")
    assert ids(choose(OTHERS, {"retrieved": 1}, hits=hits_of(stale, OTHERS[2]))) == ["c02"]


def test_a_corpus_in_which_nearly_every_passage_answers_is_not_searched_to_its_end(
    monkeypatch,
) -> None:
    monkeypatch.setattr("pipeline_lib.raft.contexts.distractors._MOST_LOOKED_AT", 10)
    answering = [make_chunk(f"a{n:03}", f"In deep burrows, {n} of them.") for n in range(200)]
    pool = DistractorPool([ORACLE, *answering], seed=0)
    group = group_of(ask_about(ORACLE, answer="in deep burrows"))
    assert pool.choose(group, {"random": 1}, (), Nobody()) is None
