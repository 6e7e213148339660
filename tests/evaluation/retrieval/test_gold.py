"""What counts as relevant: documents by any of their names, spans by half of their length."""

from __future__ import annotations

import pytest

from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.gold import (
    ChunkPlace,
    CorpusDocument,
    Found,
    choose_level,
    chunk_gold,
    coverage,
    document_gold,
    locate_spans,
    match_documents,
    span_gold,
)
from pipeline_lib.evaluation.retrieval.judgements import Judgements, Span

DOCUMENTS = [
    CorpusDocument(document_id="1a", source_uri="file:docs/guide.md"),
    CorpusDocument(document_id="2b", source_uri="file:corpus.jsonl#p00_01"),
    CorpusDocument(
        document_id="3c", source_uri="https://example.org/x", metadata_json='{"_id": "MED-10"}'
    ),
    CorpusDocument(document_id="4d", source_uri="file:old/intro.md"),
    CorpusDocument(document_id="5e", source_uri="file:new/intro.md"),
]


@pytest.mark.parametrize(
    ("name", "document_id"),
    [
        ("1a", "1a"),
        ("file:docs/guide.md", "1a"),
        ("p00_01", "2b"),
        ("MED-10", "3c"),
        ("guide.md", "1a"),
        ("guide", "1a"),
        ("file:old/intro.md", "4d"),
    ],
)
def test_a_judged_document_is_known_by_id_uri_record_or_file(name: str, document_id: str) -> None:
    assert match_documents([name], DOCUMENTS) == {name: document_id}


def test_a_name_of_two_documents_or_of_none_is_not_guessed_at() -> None:
    assert match_documents(["intro.md", "intro", "outro"], DOCUMENTS) == {}


def test_a_document_counts_once_at_its_best_chunk_under_its_judged_name() -> None:
    judgements = Judgements(queries={"q": "?"}, documents={"q": {"guide": 1, "lost": 1}})
    gold = document_gold(judgements, DOCUMENTS)
    found = [Found("c1", "9z", 0.9), Found("c2", "1a", 0.8), Found("c3", "1a", 0.7)]
    assert gold.ranking(found) == [("9z", 0.9), ("guide", 0.8)]
    assert gold.relevance == {"q": {"guide": 1, "lost": 1}}  # what is lost stays relevant
    assert (gold.num_unmatched, gold.num_judged, gold.examples) == (1, 2, ("lost",))
    gold.check(0.5)
    with pytest.raises(InputError, match=r"1 of 2 judged documents are not in the corpus.*lost"):
        gold.check(0.4)


def test_coverage_is_the_share_of_the_span() -> None:
    span = Span("d", 10, 20)
    assert coverage(ChunkPlace("c", "d", 0, 15), span) == 0.5
    assert coverage(ChunkPlace("c", "d", 12, 14), span) == 0.2
    assert coverage(ChunkPlace("c", "d", 0, 100), span) == 1.0
    assert coverage(ChunkPlace("c", "d", 20, 30), span) == 0.0


def test_a_chunk_is_relevant_when_it_covers_half_of_a_span_and_uncovered_spans_stay() -> None:
    judgements = Judgements(
        queries={"q": "?"}, spans={"q": (Span("d", 10, 20), Span("d", 0, 40), Span("lost", 0, 4))}
    )
    chunks = [
        ChunkPlace("just", "1", 15, 30),  # 5 of 10 characters
        ChunkPlace("short", "1", 16, 30),  # 4 of 10
        ChunkPlace("other", "2", 0, 99),
    ]
    located = {"q": [Span("1", 10, 20), Span("1", 0, 40), None]}
    gold = span_gold(judgements, located, chunks)
    assert gold.relevance == {"q": {"just": 1, "uncovered:d:0-40": 1, "uncovered:lost:0-4": 1}}
    assert (gold.num_unmatched, gold.num_judged) == (1, 3)


def test_a_span_is_found_again_where_cleaning_moved_it() -> None:
    text = "A red fox.  Later:\n\na red\nfox sleeps. And a red fox wakes."
    spans = {
        "q": [
            Span("d", 22, 37, "a red fox sleeps"),
            Span("d", 50, 59, "a red fox"),
            Span("d", 0, 9),
            Span("d", 0, 9999),
            Span("d", 0, 4, "blue"),
            Span("elsewhere", 0, 4),
        ]
    }
    found = locate_spans(spans, {"d": "1"}, {"1": text})["q"]
    read = [None if span is None else text[span.start : span.end] for span in found]
    assert read == ["a red\nfox sleeps", "a red fox", "A red fox", None, None, None]
    assert found[1] is not None
    assert found[1].start == text.rindex("a red fox")  # the nearest to where it was said to be


def test_the_finest_level_is_chosen_unless_one_is_asked_for() -> None:
    spans = {"q": (Span("d", 0, 1),)}
    of_dataset = Judgements(
        queries={"q": "?"}, chunks={"q": {"c1": 1}}, spans=spans, documents={"q": {"d": 1}}
    )
    assert choose_level(of_dataset, "auto", {"c1", "c2"}) == "chunks"
    assert choose_level(of_dataset, "auto", {"c2"}) == "spans"  # the corpus was cut anew since
    assert choose_level(of_dataset, "documents", {"c1"}) == "documents"
    of_beir = Judgements(queries={"q": "?"}, documents={"q": {"d": 1}})
    assert choose_level(of_beir, "auto", set()) == "documents"
    with pytest.raises(InputError, match="no judgements of spans; there are some of documents"):
        choose_level(of_beir, "spans", set())


def test_judged_chunks_that_are_gone_are_counted() -> None:
    judgements = Judgements(queries={"q": "?"}, chunks={"q": {"c1": 1, "c2": 1}})
    gold = chunk_gold(judgements, {"c1"})
    assert (gold.num_unmatched, gold.relevance) == (1, {"q": {"c1": 1, "c2": 1}})
    assert gold.ranking([Found("c1", "d", 0.4)]) == [("c1", 0.4)]
