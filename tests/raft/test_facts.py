from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.facts import facts_of, sentence_spans, stands_alone


def chunk(text: str) -> Chunk:
    return Chunk(chunk_id="c", document_id="d", ordinal=0, start=0, end=0, text=text, num_tokens=0)


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


def test_sentences_end_at_marks_before_capitals() -> None:
    text = 'He said "no." Then he left! Was it 3.5 km? Yes, e.g. by car. (In the rain.) End'
    assert sentences(text) == [
        'He said "no."',
        "Then he left!",
        "Was it 3.5 km?",
        "Yes, e.g. by car.",
        "(In the rain.)",
        "End",
    ]


def test_sentences_do_not_cross_paragraphs_or_list_items() -> None:
    assert sentences("A heading\n\nSome text\nthat goes on.\n* one\n* two\n1. three") == [
        "A heading",
        "Some text\nthat goes on.",
        "one",
        "two",
        "three",
    ]


@given(st.text(alphabet='Ab .!?\n"*1)', max_size=80))
def test_sentences_are_ordered_trimmed_and_lose_only_white_space_and_list_marks(text: str) -> None:
    spans = sentence_spans(text)
    assert all(a < b for a, b in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    assert all(text[a:b] == text[a:b].strip() for a, b in spans)


GOOD = "A suspension bridge hangs its deck from strong steel cables."


def test_a_fact_is_a_span_of_its_chunk_with_line_breaks() -> None:
    text = "Intro:\n\nA suspension bridge hangs its deck\n   from strong steel cables. It sways."
    [fact] = facts_of(chunk(text))
    assert fact.text == GOOD
    assert fact.quote == text[fact.start : fact.end]
    assert "\n   from" in fact.quote


def test_facts_shorter_than_the_shortest_quote_are_left_out() -> None:
    assert facts_of(chunk(GOOD), min_quote_chars=len(GOOD))
    assert not facts_of(chunk(GOOD), min_quote_chars=len(GOOD) + 1)


@pytest.mark.parametrize(
    "sentence",
    [
        "It hangs its deck from strong steel cables over the water.",
        "However, the bridge hangs its deck from strong steel cables.",
        "If it hangs its deck from strong steel cables, the bridge sways.",
        "The following bridges hang their decks from strong steel cables.",
        "The bridge hangs its deck from cables as follows in the list below.",
        "The bridge in this example hangs its deck from strong steel cables.",
        "The bridge hangs its deck from strong steel cables",
        "hangs its deck from strong steel cables over the deep water.",
        "Special bridges: the deck hangs from strong steel cables.",
        "The bridge was built.",
        "x = {1: 2, 3: 4}; y = [5, 6]; z = f(x, y) ** 2 + 17 - 4 / 2.",
        'The "bridge hangs its deck from strong steel cables over water.',
        "The bridge (hangs its deck from strong steel cables over water.",
        "Column | a bridge hangs its deck from cables | another column here.",
        "Changed in version 3.2: a bridge hangs its deck from strong cables.",
    ],
)
def test_sentences_that_need_others_or_are_no_prose_do_not_stand_alone(sentence: str) -> None:
    assert not stands_alone(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        GOOD,
        '"Cables" are strands of steel that carry the deck of a bridge.',
        "If the cables break, the deck of the suspension bridge falls down.",
        "There are two towers that carry the heavy cables of the bridge.",
    ],
)
def test_whole_statements_stand_alone(sentence: str) -> None:
    assert stands_alone(sentence)
