"""Token counts from the tokens of words: exact where words do not join, and close elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline_lib.corpus.chunking.measure import TokenMeasure

WORDS = st.lists(
    st.sampled_from(["a", "bc", "it's", "漢字", "😀", "x-y", "3.14", "e\u0301"]), min_size=1
)


@given(parts=WORDS, data=st.data())
@settings(deadline=None)
def test_sums_over_words_equal_the_tokenizers_own_counts(
    tokenizers_by_name: dict[str, Tokenizer], parts: list[str], data: st.DataObject
) -> None:
    tokenizer = Tokenizer.from_str(tokenizers_by_name["letters"].to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    text = " ".join(parts)
    first = data.draw(st.integers(0, len(parts) - 1))
    start = len(" ".join(parts[:first])) + (first > 0)
    measured = TokenMeasure(tokenizer).measure(text)
    expected = len(tokenizer.encode(text[start:], add_special_tokens=False))
    assert measured.tokens(start, len(text)) == expected


def test_reach_is_the_furthest_end_and_the_earliest_start(word_tokenizer: Tokenizer) -> None:
    text = "one two, three"
    measured = TokenMeasure(word_tokenizer).measure(text)
    assert [measured.tokens(0, end) for end in (2, 3, 4, 7, 8, 14)] == [0, 1, 1, 2, 3, 4]
    assert measured.reach(0, 2) == text.index(",")
    assert measured.reach(0, 3) == len(text) - 1
    assert measured.reach(0, 4) == measured.reach(0, 99) == len(text)
    assert measured.reach_back(len(text), 1) == text.index(" three")
    assert measured.reach_back(len(text), 99) == 0
    assert list(measured.tile_ends(0, len(text))) == [3, 7, 8]


@pytest.mark.parametrize("text", ["", " \n ", "x" * 300_000 + " y"])
def test_odd_texts_are_measured_too(word_tokenizer: Tokenizer, text: str) -> None:
    measured = TokenMeasure(word_tokenizer).measure(text)
    assert measured.reach(0, 10**9) == len(text)
    assert measured.tokens(0, len(text)) >= len(text.split())
