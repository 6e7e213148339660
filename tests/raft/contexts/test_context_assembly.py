"""Contexts and targets of rows; most of the peers' bugs lived here."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline_lib.config import RetrievalConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.errors import InputError
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.contexts.drafting import Remapped
from pipeline_lib.raft.rendering import REFUSAL_ANSWER, render_prompt, render_target
from pipeline_lib.raft.rows import Provenance, RaftRow
from tests.raft.contexts.made_questions import ask_about

MakeCandidate = Callable[..., Candidate]
BuildOne = Callable[..., RaftRow]


def roles(row: RaftRow) -> list[str]:
    return [passage.role for passage in row.context]


def ids(row: RaftRow) -> set[str]:
    return {passage.chunk_id for passage in row.context}


def test_a_row_has_its_oracle_and_the_distractors_asked_for(
    build_one: BuildOne, make_candidate: MakeCandidate
) -> None:
    row = build_one(make_candidate(3), num_distractors=4, oracle_probability=1.0)
    assert sorted(roles(row)) == ["distractor"] * 4 + ["oracle"]
    assert row.target == "answer"
    assert row.oracle_chunk_ids == ("chunk-03",)
    assert row.source_document_id == "doc-03"
    assert row.quotes[0].chunk_id == "chunk-03"


def test_titles_and_provenance_are_kept(build_one: BuildOne, make_candidate: MakeCandidate) -> None:
    """Peer bug, gorilla raft.py: the source's title is discarded (`placeholder_title`)."""
    row = build_one(make_candidate(3), oracle_probability=1.0, seed=9)
    assert {p.title for p in row.context} == {f"Page {p.chunk_id[-2:]}" for p in row.context}
    assert row.provenance == Provenance(
        question_source="teacher",
        answer_source="teacher",
        teacher_model="teacher-1",
        prompt_version="v1",
        seed=9,
    )


def test_a_known_answer_is_its_bringers(build_one: BuildOne, make_candidate: MakeCandidate) -> None:
    brought = replace(make_candidate(3), source="user", known_answer="clover")
    assert build_one(brought).provenance.answer_source == "user"
    only_asked = replace(make_candidate(3), source="user")
    assert build_one(only_asked).provenance.question_source == "user"
    assert build_one(only_asked).provenance.answer_source == "teacher"


def test_peer_bug_oracle_probability_is_the_chance_of_the_oracle_not_of_its_absence(
    make_builder, make_candidate: MakeCandidate
) -> None:
    """RAG-FiT: `raft_p` is used as the chance of negatives only. Curator: never passed on.

    Llama-cookbook: the oracle is always kept. gorilla: the command line's 1.0 always wins.
    """
    candidates = [make_candidate(n % 24, question=f"q{n}?") for n in range(150)]
    for probability in (0.0, 0.2, 0.8, 1.0):
        rows = make_builder(oracle_probability=probability).build(candidates)
        share = statistics.fmean(row.oracle_present for row in rows)
        assert share == pytest.approx(probability, abs=0.1)


def test_refuse_share_is_of_the_rows_without_oracle(
    make_builder, make_candidate: MakeCandidate
) -> None:
    candidates = [make_candidate(n % 24, question=f"q{n}?") for n in range(150)]
    for share in (0.0, 0.3, 1.0):
        rows = make_builder(oracle_probability=0.0, refuse_share=share).build(candidates)
        assert {row.target for row in rows} <= {"refuse", "memorise"}
        refused = statistics.fmean(row.target == "refuse" for row in rows)
        assert refused == pytest.approx(share, abs=0.1)


def test_validation_and_test_rows_always_hold_the_oracle(
    build_one: BuildOne, make_candidate: MakeCandidate
) -> None:
    for split in ("validation", "test"):
        row = build_one(make_candidate(1, split=split), oracle_probability=0.0)
        assert row.oracle_present
        assert row.target == "answer"


def test_peer_bug_a_row_without_its_oracle_quotes_nothing(
    build_one: BuildOne, make_candidate: MakeCandidate
) -> None:
    """gorilla raft.py: the label still quotes a document that is absent from the context.

    sdg_hub: rows without the oracle quote a distractor as evidence.
    """
    for share, target in ((1.0, "refuse"), (0.0, "memorise")):
        row = build_one(make_candidate(1), oracle_probability=0.0, refuse_share=share)
        assert row.target == target
        assert row.quotes == ()
        assert row.reasoning == ()
        assert "<quote" not in render_target(row)
        assert "chunk-01" not in ids(row)


def test_refusing_teaches_the_refusal_and_memorising_the_answer(
    build_one: BuildOne, make_candidate: MakeCandidate
) -> None:
    candidate = make_candidate(1)
    refused = build_one(candidate, oracle_probability=0.0, refuse_share=1.0)
    assert refused.final_answer == REFUSAL_ANSWER
    memorised = build_one(candidate, oracle_probability=0.0, refuse_share=0.0)
    assert candidate.written is not None
    assert memorised.final_answer == candidate.written.final_answer


def test_peer_bug_the_label_stays_with_its_own_passage_when_the_oracle_is_dropped(
    build_one: BuildOne, make_candidate: MakeCandidate
) -> None:
    """raft-toolkit: the oracle variable is overwritten before answering."""
    candidate = make_candidate(5)
    row = build_one(candidate, oracle_probability=0.0, refuse_share=0.0)
    assert row.oracle_chunk_ids == ("chunk-05",)
    assert row.oracle_document_ids == ("doc-05",)
    assert candidate.written is not None
    assert row.final_answer == candidate.written.final_answer


def test_the_number_of_passages_does_not_tell_whether_the_oracles_are_there(
    make_builder, make_candidate: MakeCandidate, animals: Corpus
) -> None:
    two = ask_about(*animals.chunks[:2], answer="both", kind="multi_hop")
    for num_distractors in (0, 1, 3):
        for probability in (0.0, 1.0):
            builder = make_builder(num_distractors=num_distractors, oracle_probability=probability)
            one_oracle, two_oracles = builder.build([make_candidate(2), two])
            assert len(one_oracle.context) == num_distractors + 1
            assert len(two_oracles.context) == num_distractors + 2


def test_all_oracles_of_a_row_are_there_or_none_is(make_builder, animals: Corpus) -> None:
    builder = make_builder(num_distractors=6, oracle_probability=0.5)
    candidates = [
        ask_about(*animals.chunks[:2], answer="both", question=f"q{n}?", kind="multi_hop")
        for n in range(40)
    ]
    rows = builder.build(candidates)
    assert {len(ids(row) & {"chunk-00", "chunk-01"}) for row in rows} == {0, 2}
    for row in rows:
        assert row.oracle_chunk_ids == ("chunk-00", "chunk-01")
        assert roles(row).count("oracle") == (2 if row.oracle_present else 0)


def test_peer_bug_the_oracle_is_at_every_place(make_builder, make_candidate: MakeCandidate) -> None:
    """RAG-FiT: positives always come first. Curator: `oracle_index` is computed wrongly."""
    places = [0] * 4
    candidates = [make_candidate(n % 24, question=f"q{n}?") for n in range(200)]
    for row in make_builder(num_distractors=3, oracle_probability=1.0).build(candidates):
        places[roles(row).index("oracle")] += 1
        number = 1 + roles(row).index("oracle")
        assert f'<quote doc="{number}">' in render_target(row)
        content = render_prompt(row.question, row.context)[1]["content"]
        assert f'<document id="{number}" title="Page {row.oracle_chunk_id[-2:]}">' in content
    assert min(places) > 30


@pytest.mark.parametrize(("order", "place"), [("oracle_first", 0), ("oracle_last", 3)])
def test_the_oracle_can_be_kept_in_one_place(
    make_builder, make_candidate: MakeCandidate, order: str, place: int
) -> None:
    builder = make_builder(num_distractors=3, oracle_probability=1.0, order=order)
    rows = builder.build([make_candidate(n) for n in range(12)])
    assert {roles(row).index("oracle") for row in rows} == {place}
    others = {tuple(p.chunk_id for p in row.context if p.role == "distractor") for row in rows}
    assert any(list(each) != sorted(each) for each in others)


def test_a_question_that_the_corpus_does_not_answer_is_refused_beside_its_passage(
    make_builder, make_candidate: MakeCandidate, unanswerable, searcher
) -> None:
    candidate = unanswerable(make_candidate(3))
    [hits] = searcher.search(["the lynx badger bison"], limit=9, config=RetrievalConfig())
    builder = make_builder(num_distractors=3, oracle_probability=1.0)
    for split in ("train", "validation", "test"):
        topic = replace(candidate.topic, split=split)
        [row] = builder.build([replace(candidate, topic=topic, hits=tuple(hits))])
        assert row.target == "refuse"
        assert row.final_answer == REFUSAL_ANSWER
        assert row.reasoning == ()
        assert row.oracle_chunk_ids == ()
        assert row.source_document_id == "doc-03"
        assert roles(row) == ["distractor"] * 4
        [source] = [passage for passage in row.context if passage.chunk_id == "chunk-03"]
        assert source.origin == "retrieved"


def test_no_distractor_holds_the_answer(make_builder, make_candidate: MakeCandidate) -> None:
    """Documents 3 and 15 tell of the same food."""
    builder = make_builder(num_distractors=20, oracle_probability=1.0)
    rows = builder.build([make_candidate(3, question=f"q{n}?") for n in range(40)])
    assert all("chunk-15" not in ids(row) for row in rows)
    assert set(builder.guarded) == {"contains_answer"}
    assert 20 < builder.guarded["contains_answer"] <= 40  # as far as it was drawn at all


def test_training_rows_see_nothing_of_the_documents_that_are_held_out(
    make_builder, make_candidate: MakeCandidate, animals: Corpus, searcher
) -> None:
    split_of = {f"doc-{n:02}": ("train", "test", "validation")[n % 3] for n in range(24)}
    candidates = []
    for n in range(24):
        candidate = make_candidate(n, split=split_of[f"doc-{n:02}"])
        [hits] = searcher.search([candidate.question], limit=24, config=RetrievalConfig())
        candidates.append(replace(candidate, hits=tuple(hits)))
    rows = make_builder(num_distractors=5, split_of=split_of).build(candidates)
    for row in rows:
        seen = {split_of[passage.document_id] for passage in row.context}
        assert row.split != "train" or seen == {"train"}
    of_test = {split_of[p.document_id] for row in rows if row.split == "test" for p in row.context}
    assert of_test == {"train", "test", "validation"}


def test_retrieved_passages_record_rank_and_score(
    build_one: BuildOne, make_candidate: MakeCandidate, searcher
) -> None:
    candidate = make_candidate(3)
    [hits] = searcher.search([candidate.question], limit=9, config=RetrievalConfig())
    row = build_one(
        make_candidate(3, hits=hits),
        num_distractors=3,
        distractors={"retrieved": 1},
        oracle_probability=1.0,
    )
    by_id = {hit.chunk_id: hit for hit in hits}
    for passage in row.context:
        if passage.origin == "retrieved":
            hit = by_id[passage.chunk_id]
            assert (passage.rank, passage.score) == (hit.rank, hit.score)
    assert sum(passage.origin == "retrieved" for passage in row.context) == 3


def test_the_seed_decides_and_other_rows_do_not(
    make_builder, make_candidate: MakeCandidate
) -> None:
    """Peer bug, gorilla raft.py: no seed anywhere."""
    alone = make_builder().build([make_candidate(4)])
    among = make_builder().build([make_candidate(n) for n in (7, 4, 1)])
    assert alone == [among[1]]
    contexts = {
        tuple(
            passage.chunk_id
            for passage in make_builder(seed=seed).build([make_candidate(4)])[0].context
        )
        for seed in range(5)
    }
    assert len(contexts) > 1


def test_the_order_of_the_corpus_does_not_matter(
    make_builder, make_candidate: MakeCandidate, animals: Corpus
) -> None:
    candidates = [make_candidate(n) for n in range(24)]
    forwards = make_builder().build(candidates)
    assert make_builder(animals.chunks[::-1]).build(candidates) == forwards


def test_most_rows_stay_as_they_are_when_a_document_goes(
    make_builder, make_candidate: MakeCandidate, animals: Corpus
) -> None:
    """Only those that showed it change, and a few that draw another neighbour."""
    candidates = [make_candidate(n) for n in range(23)]
    before = make_builder(distractors={"random": 1}).build(candidates)
    after = make_builder(animals.chunks[:23], distractors={"random": 1}).build(candidates)
    showing = [row for row in before if "chunk-23" in ids(row)]
    changed = [row for row, new in zip(before, after, strict=True) if row != new]
    assert 0 < len(showing) <= len(changed) <= len(showing) + 6


def test_a_row_that_cannot_have_its_distractors_is_rejected(
    animals: Corpus, make_builder, make_candidate: MakeCandidate
) -> None:
    few = (animals.chunks[3], animals.chunks[15], animals.chunks[5])
    builder = make_builder(few, num_distractors=2, oracle_probability=1.0)
    [row] = builder.build([make_candidate(3)])
    assert row == Rejection("context", "too_few_distractors")


def test_peer_bug_a_corpus_that_is_too_small_is_refused_before_anything_is_generated(
    make_builder, animals: Corpus
) -> None:
    """gorilla raft.py: `random.sample` raises when chunks <= distractors."""
    make_builder(num_distractors=23, oracle_probability=1.0)
    with pytest.raises(InputError, match="24 different passages, but a row needs 25") as caught:
        make_builder(num_distractors=24, oracle_probability=1.0)
    assert "num_distractors" in str(caught.value)
    with pytest.raises(InputError, match="needs 25"):  # the oracle's place has to be filled too
        make_builder(num_distractors=23, oracle_probability=0.9)
    held_out = {f"doc-{n:02}": "test" for n in range(20)}
    with pytest.raises(InputError, match="4 different passages, but a row needs 5"):
        make_builder(num_distractors=4, oracle_probability=1.0, split_of=held_out)


def test_one_more_distractor_is_none_that_the_row_knows(
    make_builder, make_candidate: MakeCandidate
) -> None:
    builder = make_builder(num_distractors=20, oracle_probability=1.0)
    [row] = builder.build([make_candidate(3)])
    known = ids(row)
    drawn = []
    while (passage := builder.one_more(row)) is not None:
        assert passage.role == "distractor"
        assert passage.title == f"Page {passage.chunk_id[-2:]}"
        drawn.append(passage.chunk_id)
        row = row.model_copy(update={"context": (*row.context, passage)})
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & known
    assert known | set(drawn) == {f"chunk-{n:02}" for n in range(24)} - {"chunk-15"}


def test_one_more_distractor_of_a_training_row_is_from_training_documents(
    make_builder, make_candidate: MakeCandidate
) -> None:
    split_of = {f"doc-{n:02}": "train" if n < 6 else "test" for n in range(24)}
    builder = make_builder(num_distractors=2, oracle_probability=1.0, split_of=split_of)
    [row] = builder.build([make_candidate(1)])
    for _ in range(3):
        passage = builder.one_more(row)
        assert passage is not None
        assert split_of[passage.document_id] == "train"
        row = row.model_copy(update={"context": (*row.context, passage)})
    assert builder.one_more(row) is None


def test_a_redrawn_row_keeps_its_name_answer_and_provenance(
    make_builder, make_candidate: MakeCandidate, animals: Corpus
) -> None:
    [row] = make_builder(seed=1).build([make_candidate(3, split="test")])
    moved = [replace(chunk, chunk_id=f"new-{chunk.chunk_id}") for chunk in animals.chunks]
    quote = row.quotes[0].model_copy(update={"chunk_id": "new-chunk-03"})
    step = row.reasoning[0].model_copy(update={"quote": quote})
    item = Remapped(row=row, chunks=(moved[3],), reasoning=(step,))
    [redrawn] = make_builder(moved, seed=2).redraw([item])
    assert redrawn.row_id == row.row_id
    assert redrawn.provenance == row.provenance
    assert (redrawn.question, redrawn.final_answer) == (row.question, row.final_answer)
    assert redrawn.oracle_chunk_ids == ("new-chunk-03",)
    assert redrawn.quotes == (quote,)
    assert all(passage.chunk_id.startswith("new-") for passage in redrawn.context)
    assert redrawn.row_key != row.row_key


def test_training_rows_are_made_again_not_redrawn(
    make_builder, make_candidate: MakeCandidate, animals: Corpus
) -> None:
    builder = make_builder(oracle_probability=1.0)
    [row] = builder.build([make_candidate(3)])
    item = Remapped(row=row, chunks=(animals.chunks[3],), reasoning=row.reasoning)
    with pytest.raises(ValueError, match="training row"):
        builder.redraw([item])


def test_the_key_of_a_row_changes_with_all_that_it_rests_on(
    make_builder, make_candidate: MakeCandidate, animals: Corpus
) -> None:
    candidate = make_candidate(3)
    [row] = make_builder(oracle_probability=1.0).build([candidate])
    used = {passage.chunk_id for passage in row.context} - {"chunk-03"}

    def key(chunks=animals.chunks, item=candidate, **settings) -> str:
        [made] = make_builder(chunks, **({"oracle_probability": 1.0} | settings)).build([item])
        return made.row_key

    assert key() == row.row_key
    edited = [
        replace(chunk, text=chunk.text + " So they say.") if chunk.chunk_id in used else chunk
        for chunk in animals.chunks
    ]
    unrelated = [
        chunk
        if chunk.chunk_id in {*used, "chunk-03"}
        else replace(chunk, text=f"{chunk.text} Yes.")
        for chunk in animals.chunks
    ]
    assert key(unrelated) == row.row_key
    others = [
        key(edited),
        key(seed=43),
        key(oracle_probability=0.0),
        key(item=replace(candidate, known_answer="clover", source="user")),
    ]
    assert len({row.row_key, *others}) == 5


def test_a_candidate_without_an_answer_is_a_mistake_of_ours(
    make_builder, make_candidate: MakeCandidate
) -> None:
    with pytest.raises(ValueError, match="has no answer yet"):
        make_builder().build([replace(make_candidate(3), written=None)])
