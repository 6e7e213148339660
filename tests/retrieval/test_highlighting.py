"""Highlighted words are those that BM25 matched."""

from __future__ import annotations

import pytest

from pipeline_lib.retrieval.highlighting import matching_words
from pipeline_lib.retrieval.sparse import Bm25Encoder

ENGLISH = Bm25Encoder("english")


def words(query: str, text: str, bm25: Bm25Encoder = ENGLISH) -> list[str]:
    return [text[start:end] for start, end in matching_words(query, text, bm25)]


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("yields a generator", "Generators yield; a GENERATOR yielded.", 4),
        ("the of and", "The end of the story and more.", 0),  # stop words only
        ("context manager", "The foo_context, (manager)", 2),
        ("naïve", "NAÏVE and naive", 1),
        ("首都", "日本の 首都 です", 1),
        ("首", "日本の首都です", 0),  # a run without spaces is one term
        ("العالم", "مرحبا بالعالم، العالم", 1),  # no Arabic stemmer in English
        ("שלום", "שלום עולם", 1),
        ("हिन्दी", "यह हिन्दी है", 1),
        ("", "text", 0),
        ("text", "", 0),
    ],
)
def test_what_is_highlighted(query: str, text: str, expected: int):
    assert len(words(query, text)) == expected


def test_spans_are_whole_words_in_order():
    text = "A list is mutable. Lists!"
    assert matching_words("list", text, ENGLISH) == [(2, 6), (19, 24)]


def test_marks_belong_to_their_word():
    assert words("हिन्दी", "यह हिन्दी है") == ["हिन्दी"]


def test_the_stemmer_is_the_indexs():
    assert words("häuser", "Das Haus, die Häuser", Bm25Encoder("german")) == ["Haus", "Häuser"]
