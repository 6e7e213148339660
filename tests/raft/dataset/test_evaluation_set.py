from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.raft.dataset.evaluation_set import (
    EvaluationSet,
    KeptQuestions,
    describe_evaluation_set,
    evaluation_set_fingerprint,
    keep_questions,
)
from pipeline_lib.raft.dataset.previous import PreviousDataset
from pipeline_lib.raft.rows import RaftRow, Split

FACTS = [
    "The harbour was built in 1903 by two brothers from the north.",
    "Its wall broke in the storm of 1921 and was mended in a year.",
    "Fish is sold there on every day but Sunday, from six to ten.",
    "The lighthouse was added when the wall was mended for good.",
]
PAGES = {"harbour": FACTS[:2], "market": FACTS[2:], "town": ["A town.", "It has a mayor."]}
RECUT = {"harbour": [" ".join(FACTS[:1]) + "\n" + FACTS[1]], "market": FACTS[2:], "town": ["A."]}
"""The same harbour text in one passage; the town is another text."""


def placed(corpus: Corpus, split: Split = "test") -> dict[str, Split]:
    return {document.document_id: split for document in corpus.documents}


@pytest.fixture
def rows(books: Any) -> list[RaftRow]:
    """One about the harbour alone, one about harbour and market, one that nothing answers."""
    corpus = books.corpus(PAGES)
    harbour, market = books.chunks(corpus, "harbour"), books.chunks(corpus, "market")
    town = books.chunks(corpus, "town")
    return [
        books.row(corpus, [harbour[1]], [town[0]], split="test", question="When did it break?"),
        books.row(corpus, [harbour[0], market[0]], [market[1]], split="test", question="Both?"),
        books.row(corpus, [], [market[1], town[1]], split="test", question="Who paid?"),
    ]


@pytest.fixture
def before(make_previous: Any, books: Any, rows: list[RaftRow]) -> PreviousDataset:
    return make_previous(books.corpus(PAGES), rows)


def test_the_fingerprint_is_over_question_answer_and_evidence(rows: list[RaftRow]) -> None:
    def changed(**fields: Any) -> list[RaftRow]:
        return [rows[0].model_copy(update=fields), *rows[1:]]

    first = evaluation_set_fingerprint(rows)
    assert evaluation_set_fingerprint(rows[::-1]) == first
    assert evaluation_set_fingerprint(changed(context=(), row_id="x", row_key="y")) == first
    for fields in ({"question": "Why?"}, {"final_answer": "1922"}, {"reasoning": ()}):
        assert evaluation_set_fingerprint(changed(**fields)) != first
    assert evaluation_set_fingerprint(rows[1:]) != first


def test_in_an_unchanged_corpus_all_questions_stay_byte_for_byte(
    before: PreviousDataset, books: Any, rows: list[RaftRow]
) -> None:
    corpus = books.corpus(PAGES)
    kept = keep_questions(before, corpus, placed(corpus))
    assert list(kept.unchanged) == rows
    assert kept.remapped == kept.lost == ()


def test_when_the_text_is_cut_anew_evidence_is_found_and_the_set_stays_the_same(
    before: PreviousDataset, books: Any, rows: list[RaftRow]
) -> None:
    corpus = books.corpus(RECUT)
    kept = keep_questions(before, corpus, placed(corpus))
    assert kept.unchanged == kept.lost == ()
    assert [each.row for each in kept.remapped] == rows
    for each in kept.remapped:
        texts = {chunk.chunk_id: chunk.text for chunk in each.chunks}
        assert texts.keys() <= {chunk.chunk_id for chunk in corpus.chunks}
        for step, old in zip(each.reasoning, each.row.reasoning, strict=True):
            assert step.quote is not None
            assert old.quote is not None
            assert texts[step.quote.chunk_id][step.quote.start : step.quote.end] == old.quote.text
    redrawn = [books.redrawn(corpus, each) for each in kept.remapped]
    assert evaluation_set_fingerprint(redrawn) == evaluation_set_fingerprint(rows)


def test_a_changed_distractor_redraws_the_context_only(
    before: PreviousDataset, books: Any, rows: list[RaftRow]
) -> None:
    corpus = books.corpus({**PAGES, "town": ["Another text.", "It has a mayor."]})
    kept = keep_questions(before, corpus, placed(corpus))
    assert list(kept.unchanged) == rows[1:]
    (remapped,) = kept.remapped
    assert remapped.reasoning == rows[0].reasoning
    assert [chunk.chunk_id for chunk in remapped.chunks] == list(rows[0].oracle_chunk_ids)


def test_contexts_can_be_redrawn_for_all(
    before: PreviousDataset, books: Any, rows: list[RaftRow]
) -> None:
    corpus = books.corpus(PAGES)
    kept = keep_questions(before, corpus, placed(corpus), redraw_all=True)
    assert [each.row for each in kept.remapped] == rows
    assert kept.unchanged == ()


def test_what_cannot_be_found_is_lost_with_its_reason(
    before: PreviousDataset, books: Any, rows: list[RaftRow]
) -> None:
    """The harbour's second fact and the market's are rewritten; the town is gone."""
    corpus = books.corpus({"harbour": [FACTS[0], "The wall broke."], "market": ["No fish today."]})
    kept = keep_questions(before, corpus, placed(corpus))
    assert kept.unchanged == kept.remapped == ()
    assert [(row.question, why.reason) for row, why in kept.lost] == [
        ("When did it break?", "quote_not_found"),
        ("Both?", "quote_not_found"),
        ("Who paid?", "passage_not_found"),
    ]
    assert kept.lost[0][1].text == "Its wall broke in"


@pytest.mark.parametrize(
    ("pages", "split", "reason"),
    [({"market": FACTS[2:]}, "test", "document_deleted"), (PAGES, "train", "split_changed")],
)
def test_questions_about_what_is_no_test_document_any_more_are_lost(
    before: PreviousDataset, books: Any, pages: Any, split: Split, reason: str
) -> None:
    corpus = books.corpus(pages)
    kept = keep_questions(before, corpus, placed(corpus, split))
    assert kept.lost[0][1].reason == reason


def test_the_record_counts_what_was_taken_over_and_what_is_new(
    before: PreviousDataset, books: Any, rows: list[RaftRow], tmp_path: Path
) -> None:
    corpus = books.corpus({**PAGES, "town": ["Another text.", "It has a mayor."]})
    kept = keep_questions(before, corpus, placed(corpus))
    town = books.chunks(corpus, "town")
    new = books.row(corpus, [town[1]], [town[0]], split="test")
    redrawn = books.redrawn(corpus, kept.remapped[0])
    record = describe_evaluation_set([kept.unchanged[0], redrawn, new], kept)
    assert record == EvaluationSet(
        fingerprint=evaluation_set_fingerprint([new, redrawn, kept.unchanged[0]]),
        num_questions=3,
        taken_from=before.ref.key,
        num_unchanged=1,
        num_remapped=1,
        num_new=1,
        num_lost=1,
        lost={"left_out": 1},
        lost_questions=({"question": "Who paid?", "reason": "left_out"},),  # type: ignore[arg-type]
    )
    record.write(tmp_path)
    assert EvaluationSet.read(tmp_path) == record


def test_a_first_set_is_all_new(rows: list[RaftRow]) -> None:
    record = describe_evaluation_set(rows)
    assert (record.num_new, record.num_questions, record.taken_from) == (3, 3, "")
    assert record.fingerprint == evaluation_set_fingerprint(rows)


def test_nothing_is_kept_of_a_set_without_questions(make_previous: Any, books: Any) -> None:
    corpus = books.corpus(PAGES)
    kept = keep_questions(make_previous(corpus, []), corpus, placed(corpus))
    assert kept == KeptQuestions(kept.taken_from, (), (), ())
