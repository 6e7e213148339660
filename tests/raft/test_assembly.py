"""Contexts and targets of rows; most of the peers' bugs lived here."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from pipeline_lib.config import RetrievalConfig, SynthesizeConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.errors import InputError
from pipeline_lib.raft.assembly import RowAssembler, make_row_id
from pipeline_lib.raft.drafts import Draft, Failure
from pipeline_lib.raft.rendering import REFUSAL_ANSWER, render_prompt, render_target
from pipeline_lib.raft.rows import RaftRow

MakeDraft = Callable[..., Draft]
Assemble = Callable[..., RaftRow]


@pytest.fixture
def assemble(animals: Corpus) -> Assemble:
    """Assembles one draft under a configuration."""

    def run(draft: Draft, **config: object) -> RaftRow:
        titles = {document.document_id: document.title for document in animals.documents}
        assembler = RowAssembler(
            animals.chunks,
            titles,
            SynthesizeConfig(**config),  # type: ignore[arg-type]
            teacher_model="teacher-1",
            prompt_version="v1",
        )
        row = assembler.assemble(draft)
        assert isinstance(row, RaftRow)
        return row

    return run


def roles(row: RaftRow) -> list[str]:
    return [passage.role for passage in row.context]


def test_a_row_has_its_oracle_and_the_distractors_asked_for(
    assemble: Assemble, make_draft: MakeDraft
) -> None:
    row = assemble(make_draft(3), num_distractors=4, oracle_probability=1.0)
    assert sorted(roles(row)) == ["distractor"] * 4 + ["oracle"]
    assert row.target == "answer"
    assert row.oracle_chunk_id == "chunk-03"
    assert row.quotes[0].chunk_id == "chunk-03"


def test_titles_and_provenance_are_kept(assemble: Assemble, make_draft: MakeDraft) -> None:
    """Peer bug, gorilla raft.py: the source's title is discarded (`placeholder_title`)."""
    row = assemble(make_draft(3), oracle_probability=1.0, seed=9)
    assert {p.title for p in row.context} == {f"Page {p.chunk_id[-2:]}" for p in row.context}
    assert row.provenance.teacher_model == "teacher-1"
    assert row.provenance.seed == 9


def test_peer_bug_oracle_probability_is_the_chance_of_the_oracle_not_of_its_absence(
    assemble: Assemble, make_draft: MakeDraft
) -> None:
    """RAG-FiT: `raft_p` is used as the chance of negatives only. Curator: never passed on.

    Llama-cookbook: the oracle is always kept. gorilla: the command line's 1.0 always wins.
    """
    for probability in (0.0, 0.2, 0.8, 1.0):
        present = [
            assemble(make_draft(n % 24, question=f"q{n}?"), oracle_probability=probability)
            for n in range(150)
        ]
        share = statistics.fmean(row.oracle_present for row in present)
        assert share == pytest.approx(probability, abs=0.1)


def test_validation_and_test_rows_always_hold_the_oracle(
    assemble: Assemble, make_draft: MakeDraft
) -> None:
    for split in ("validation", "test"):
        row = assemble(make_draft(1, split=split), oracle_probability=0.0)
        assert row.oracle_present


def test_peer_bug_a_row_without_its_oracle_quotes_nothing(
    assemble: Assemble, make_draft: MakeDraft
) -> None:
    """gorilla raft.py: the label still quotes a document that is absent from the context.

    sdg_hub: rows without the oracle quote a distractor as evidence.
    """
    for target in ("refuse", "memorise"):
        row = assemble(make_draft(1), oracle_probability=0.0, oracle_absent_target=target)
        assert row.target == target
        assert row.quotes == ()
        assert "<quote" not in render_target(row)
        assert row.oracle_chunk_id not in {passage.chunk_id for passage in row.context}


def test_refusing_teaches_the_refusal_and_memorising_the_answer(
    assemble: Assemble, make_draft: MakeDraft
) -> None:
    draft = make_draft(1)
    refused = assemble(draft, oracle_probability=0.0, oracle_absent_target="refuse")
    assert refused.final_answer == REFUSAL_ANSWER
    memorised = assemble(draft, oracle_probability=0.0, oracle_absent_target="memorise")
    assert memorised.final_answer == draft.written.final_answer


def test_peer_bug_the_label_stays_with_its_own_passage_when_the_oracle_is_dropped(
    assemble: Assemble, make_draft: MakeDraft
) -> None:
    """raft-toolkit: the oracle variable is overwritten before answering."""
    draft = make_draft(5)
    row = assemble(draft, oracle_probability=0.0, oracle_absent_target="memorise")
    assert row.oracle_chunk_id == draft.oracle.chunk_id
    assert row.oracle_document_id == draft.oracle.document_id
    assert row.final_answer == draft.written.final_answer


def test_the_number_of_passages_does_not_tell_whether_the_oracle_is_there(
    assemble: Assemble, make_draft: MakeDraft
) -> None:
    for num_distractors in (0, 1, 3):
        for probability in (0.0, 1.0):
            row = assemble(
                make_draft(2), num_distractors=num_distractors, oracle_probability=probability
            )
            assert len(row.context) == num_distractors + 1


def test_peer_bug_the_oracle_is_at_every_place(assemble: Assemble, make_draft: MakeDraft) -> None:
    """RAG-FiT: positives always come first. Curator: `oracle_index` is computed wrongly."""
    places = [0] * 4
    for n in range(200):
        row = assemble(
            make_draft(n % 24, question=f"q{n}?"), num_distractors=3, oracle_probability=1.0
        )
        places[roles(row).index("oracle")] += 1
        number = 1 + roles(row).index("oracle")
        assert f'<quote doc="{number}">' in render_target(row)
        content = render_prompt(row.question, row.context)[1]["content"]
        assert f'<document id="{number}" title="Page {row.oracle_chunk_id[-2:]}">' in content
    assert min(places) > 30


def test_no_distractor_holds_the_answer(assemble: Assemble, make_draft: MakeDraft) -> None:
    """Documents 3 and 15 tell of the same food."""
    for n in range(40):
        row = assemble(make_draft(3, question=f"q{n}?"), num_distractors=20, oracle_probability=1.0)
        assert "chunk-15" not in {passage.chunk_id for passage in row.context}


def test_retrieved_passages_record_rank_and_score(
    assemble: Assemble, make_draft: MakeDraft, searcher
) -> None:
    draft = make_draft(3)
    [hits] = searcher.search([draft.question], limit=9, config=RetrievalConfig())
    row = assemble(
        make_draft(3, hits=hits),
        num_distractors=3,
        random_distractor_fraction=0.0,
        oracle_probability=1.0,
    )
    by_id = {hit.chunk_id: hit for hit in hits}
    for passage in row.context:
        if passage.origin == "retrieved":
            hit = by_id[passage.chunk_id]
            assert (passage.rank, passage.score) == (hit.rank, hit.score)
    assert sum(passage.origin == "retrieved" for passage in row.context) == 3


def test_the_seed_decides_and_other_rows_do_not(assemble: Assemble, make_draft: MakeDraft) -> None:
    """Peer bug, gorilla raft.py: no seed anywhere."""
    assert assemble(make_draft(4)) == assemble(make_draft(4))
    rows = [
        [passage.chunk_id for passage in assemble(make_draft(4), seed=seed).context]
        for seed in range(5)
    ]
    assert len({tuple(row) for row in rows}) > 1


def test_a_row_that_cannot_have_its_distractors_is_dropped(
    animals: Corpus, make_draft: MakeDraft
) -> None:
    few = (animals.chunks[3], animals.chunks[15], animals.chunks[5])
    assembler = RowAssembler(
        few,
        {document.document_id: document.title for document in animals.documents},
        SynthesizeConfig(num_distractors=2, oracle_probability=1.0),
        teacher_model="t",
        prompt_version="v",
    )
    assert assembler.assemble(make_draft(3)) == Failure("context", "too_few_distractors")
    assert assembler.guarded == {"contains_answer": 1}


def test_a_corpus_that_is_too_small_is_refused_before_anything_is_generated(
    animals: Corpus,
) -> None:
    with pytest.raises(InputError, match="24 different passages, but a row needs 25"):
        RowAssembler(
            animals.chunks,
            {},
            SynthesizeConfig(num_distractors=24, oracle_probability=1.0),
            teacher_model="t",
            prompt_version="v",
        )


def test_row_ids_name_question_and_passage() -> None:
    assert make_row_id("q", "c") == make_row_id("q", "c")
    assert len({make_row_id("q", "c"), make_row_id("q", "d"), make_row_id("r", "c")}) == 3
