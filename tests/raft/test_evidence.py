from __future__ import annotations

import pytest

from pipeline_lib.corpus.schema import Chunk, Document
from pipeline_lib.raft.evidence import find_support
from tests.corpus.made_corpora import make_chunk

FOX = "A fox is red. It sleeps by day in deep burrows. Foxes eat 20 mice per week and some berries."
DOG = "A dog is brown. It sleeps at night. Yes. Dogs eat meat."


CHUNKS = [make_chunk("fox", FOX, "d"), make_chunk("dog", DOG, "d")]


def support(question: str, answer: str, min_quote_chars: int = 1) -> tuple[str, list[str]] | None:
    found = find_support(question, answer, CHUNKS, min_quote_chars=min_quote_chars)
    if found is None:
        return None
    for quote in found.quotes:
        assert found.chunks[0].text[quote.start : quote.end] == quote.text
    return found.chunks[0].chunk_id, [quote.text for quote in found.quotes]


@pytest.mark.parametrize(
    ("question", "answer", "chunk_id", "quote"),
    [
        ("Where does a fox sleep?", "in deep burrows", "fox", "It sleeps by day in deep burrows."),
        (
            "Where does a fox sleep?",
            "IN  deep\nburrows.",
            "fox",
            "It sleeps by day in deep burrows.",
        ),
        ("When does a dog sleep?", "at night", "dog", "It sleeps at night."),
        ("What colour is a dog?", "brown", "dog", "A dog is brown."),
    ],
)
def test_a_verbatim_answer_is_supported_by_its_sentence(
    question: str, answer: str, chunk_id: str, quote: str
) -> None:
    assert support(question, answer) == (chunk_id, [quote])


def test_of_several_places_the_one_that_fits_the_question_counts() -> None:
    assert support("What does a dog do when it sleeps?", "sleeps") == (
        "dog",
        ["It sleeps at night."],
    )
    assert support("Does a fox sleep by day?", "sleeps") == (
        "fox",
        ["It sleeps by day in deep burrows."],
    )


def test_a_reworded_answer_is_supported_by_the_sentences_that_cover_it() -> None:
    found = support("What do foxes eat?", "Every week 20 mice, and berries too")
    assert found == ("fox", ["Foxes eat 20 mice per week and some berries."])
    found = support("What about foxes?", "They are red, and in burrows by day, eating mice")
    assert found is not None
    assert len(found[1]) > 1


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What do foxes eat?", "30 mice per week and some berries"),
        ("What do foxes eat?", "bread"),
        ("Where do foxes live?", "in the big city near rivers"),
        ("Why?", "?!"),
    ],
)
def test_an_answer_with_other_words_or_numbers_is_not_supported(question: str, answer: str) -> None:
    assert support(question, answer) is None


def test_short_evidence_is_widened_by_what_follows_then_by_what_precedes() -> None:
    assert support("Is it?", "Yes", 4) == ("dog", ["Yes."])
    assert support("Is it?", "Yes", 10) == ("dog", ["Yes. Dogs eat meat."])
    assert support("What do dogs eat?", "meat", 18) == ("dog", ["Yes. Dogs eat meat."])
    assert support("Is it?", "Yes", 1000) is None


STORY = (
    "Ferns grow in shade. They need damp soil.",
    "Ferns have no flowers. They spread by spores under their leaves.",
    "Mosses are older. They have no roots.",
)


def story() -> tuple[Document, list[Chunk]]:
    """One document whose passages stand one after the other, with a blank line between them."""
    text, chunks = "\n\n".join(STORY), []
    for number, part in enumerate(STORY):
        start = text.index(part)
        chunks.append(make_chunk(f"c{number}", part, "plants", ordinal=number, start=start))
    document = Document(
        document_id="plants",
        source_uri="file:///plants.txt",
        title="Plants",
        media_type="text/plain",
        text=text,
        content_sha256="",
    )
    return document, chunks


def test_an_answer_over_several_passages_has_them_all_as_oracles() -> None:
    document, chunks = story()
    answer = "They need damp soil.   Ferns have no flowers. They spread by spores"
    found = find_support(
        "How do ferns spread?", answer, chunks, min_quote_chars=10, document=document
    )
    assert found is not None
    assert [chunk.chunk_id for chunk in found.chunks] == ["c0", "c1"]
    assert [quote.text for quote in found.quotes] == [
        "They need damp soil.",
        "Ferns have no flowers.",
    ]
    for quote in found.quotes:
        text = next(chunk.text for chunk in chunks if chunk.chunk_id == quote.chunk_id)
        assert text[quote.start : quote.end] == quote.text


def test_passages_that_overlap_are_covered_by_as_few_as_possible() -> None:
    document, chunks = story()
    wide = make_chunk("wide", document.text[: chunks[1].end], "plants", ordinal=9)
    answer = "Ferns grow in shade. They need damp soil. Ferns have no flowers. They spread"
    found = find_support("Ferns?", answer, [*chunks, wide], min_quote_chars=10, document=document)
    assert found is not None
    assert [chunk.chunk_id for chunk in found.chunks] == ["wide"]


def test_an_answer_over_more_passages_than_a_context_holds_is_not_supported() -> None:
    lines = [f"The {n}th rule of the club is about number {n} alone." for n in range(9)]
    text = "\n\n".join(lines)
    document = story()[0]
    long_document = Document(**{**vars(document), "text": text})
    chunks = [
        make_chunk(f"l{n}", line, "plants", ordinal=n, start=text.index(line))
        for n, line in enumerate(lines)
    ]
    assert (
        find_support(
            "What are the rules?", text, chunks, min_quote_chars=10, document=long_document
        )
        is None
    )
