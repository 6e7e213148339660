from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.candidates import quote_of
from pipeline_lib.raft.dataset.remapping import find_again
from tests.corpus.made_corpora import make_chunk

SENTENCES = [f"Sentence number {n} tells of the {n * 7} boats that came." for n in range(12)]
TEXT = " ".join(SENTENCES)


def cut(text: str, places: list[int]) -> list[Chunk]:
    """Chunks of a text between the given offsets."""
    bounds = sorted({0, len(text), *(place for place in places if 0 < place < len(text))})
    return [
        make_chunk(f"{start}-{end}", text[start:end], "d", ordinal=number, start=start)
        for number, (start, end) in enumerate(pairwise(bounds))
    ]


@given(
    st.lists(st.integers(1, len(TEXT) - 1), max_size=8),
    st.lists(st.integers(1, len(TEXT) - 1), max_size=8),
    st.data(),
)
def test_a_quote_keeps_its_place_however_the_text_is_cut(
    before: list[int], after: list[int], data: Any
) -> None:
    old, new = cut(TEXT, before), cut(TEXT, after)
    chunk = data.draw(st.sampled_from(old))
    start = data.draw(st.integers(0, len(chunk.text) - 1))
    end = data.draw(st.integers(start + 1, len(chunk.text)))
    quote = quote_of(chunk, start, end)
    place = chunk.start + start, chunk.start + end
    holder = [each for each in new if each.start <= place[0] and place[1] <= each.end]
    found = find_again(chunk, [quote], new)
    if holder:
        assert not isinstance(found, str)
        assert found[0].as_quote().text == quote.text
        if quote.text.strip() == quote.text:
            assert found[0].chunk == holder[0]
            assert found[0].chunk.start + found[0].start == place[0]


def test_the_same_words_elsewhere_are_not_mistaken_for_the_quote() -> None:
    text = "It rained. It snowed. It rained. It hailed."
    (old,) = cut(text, [])
    quote = quote_of(old, 22, 32)
    (found,) = find_again(old, [quote], cut(text, [11, 22]))
    assert (found.chunk.start, found.start, found.is_in_place) == (22, 0, True)


def test_in_an_edited_text_a_quote_is_found_by_its_words() -> None:
    """Where several passages have it, the one that is most like the old one."""
    (old,) = cut(" ".join(SENTENCES[3:6]), [])
    quote = quote_of(old, 0, len(SENTENCES[3]))
    first = " ".join(["A new start.", SENTENCES[3], *SENTENCES[8:], ""])
    new = cut(first + " ".join([*SENTENCES[3:6], "And more."]), [len(first)])
    (found,) = find_again(old, [quote], new)
    assert found.chunk == new[1]
    assert found.as_quote().text == SENTENCES[3]


def test_white_space_may_change() -> None:
    (old,) = cut("The tide   comes\nin at six.", [])
    (found,) = find_again(old, [quote_of(old, 0, 19)], cut("Now: the tide. The tide comes in.", []))
    assert found.as_quote().text == "The tide comes in"


def test_quotes_of_one_passage_stay_in_one_if_they_can() -> None:
    (old,) = cut(" ".join(SENTENCES[:3]), [])
    quotes = [
        quote_of(old, 0, len(SENTENCES[0])),
        quote_of(old, len(SENTENCES[0]) + 1, len(SENTENCES[0]) + 1 + len(SENTENCES[1])),
    ]
    apart = " ".join([SENTENCES[0], "Then.", *SENTENCES[:2]])
    together = cut(apart, [len(SENTENCES[0]) + 1])
    found = find_again(old, quotes, together)
    assert not isinstance(found, str)
    assert {each.chunk for each in found} == {together[1]}


def test_quotes_that_were_cut_apart_need_both_passages() -> None:
    (old,) = cut(" ".join(SENTENCES[:2]), [])
    quotes = [quote_of(old, 0, len(SENTENCES[0])), quote_of(old, len(SENTENCES[0]) + 1, old.end)]
    new = cut(old.text, [len(SENTENCES[0]) + 1])
    found = find_again(old, quotes, new)
    assert not isinstance(found, str)
    assert [each.chunk for each in found] == new
    assert [each.as_quote().text for each in found] == SENTENCES[:2]


def test_a_quote_that_the_cut_goes_through_is_named() -> None:
    (old,) = cut(SENTENCES[0], [])
    assert find_again(old, [quote_of(old, 0, 20)], cut(SENTENCES[0], [10])) == SENTENCES[0][:20]
    assert find_again(old, [quote_of(old, 0, 20)], []) == SENTENCES[0][:20]


def test_a_passage_without_quotes_is_the_one_that_has_most_of_it() -> None:
    (old,) = cut(" ".join(SENTENCES[:4]), [])
    new = cut(" ".join(["A new start.", *SENTENCES]), [13 + len(SENTENCES[0]), 400])
    (found,) = find_again(old, [], new)  # type: ignore[misc]
    assert found == type(found)(new[1])
    assert find_again(old, [], cut("Nothing of the kind is said here any more.", [])) == old.text
