from __future__ import annotations

import pytest

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.evidence import find_support

FOX = "A fox is red. It sleeps by day in deep burrows. Foxes eat 20 mice per week and some berries."
DOG = "A dog is brown. It sleeps at night. Yes. Dogs eat meat."


def chunk(chunk_id: str, text: str) -> Chunk:
    return Chunk(
        chunk_id=chunk_id, document_id="d", ordinal=0, start=0, end=0, text=text, num_tokens=0
    )


CHUNKS = [chunk("fox", FOX), chunk("dog", DOG)]


def support(question: str, answer: str, min_quote_chars: int = 1) -> tuple[str, list[str]] | None:
    found = find_support(question, answer, CHUNKS, min_quote_chars=min_quote_chars)
    if found is None:
        return None
    for quote in found.quotes:
        assert found.chunk.text[quote.start : quote.end] == quote.text
    return found.chunk.chunk_id, [quote.text for quote in found.quotes]


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
