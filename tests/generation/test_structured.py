"""JSON from the outputs of models that were, and were not, made to write it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.generation.structured import parse_json, well_formed

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('abc"[]{},:\\ '), inner),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_read_as_it_is(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False, indent=2)) == value


@given(st.lists(st.text("ab\"'[]{},:\\\n ")), st.data())
def test_a_cut_list_keeps_its_complete_items(items: list[str], data: st.DataObject) -> None:
    text = json.dumps(items)
    cut = data.draw(st.integers(0, len(text) - 1))
    kept = parse_json(text[:cut])
    num_complete = 0
    while len(json.dumps(items[: num_complete + 1])) - 1 <= cut and num_complete < len(items):
        num_complete += 1
    assert kept == (items[:num_complete] or None)


@given(st.text('[]{}",:\\ abc1-.e\n`'))
def test_nothing_breaks_the_reader(text: str) -> None:
    parse_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('Sure! Here you are:\n```json\n["a", "b"]\n```\nHope it helps [1].', ["a", "b"]),
        ('```\n{"a": 1}\n```', {"a": 1}),
        ('```json\n["a", "b', ["a"]),
        ('As passage [2] says: {"verdict": "yes"} - fine?', {"verdict": "yes"}),
        ('["a", "b",]', ["a", "b"]),
        ('{"a": [1, 2,], "b": {"c": 3,},}', {"a": [1, 2], "b": {"c": 3}}),
        ('{"questions": ["a", "b", "c', {"questions": ["a", "b"]}),
        ('[{"q": "a"}, {"q": "b"}, {"q": "c"', [{"q": "a"}, {"q": "b"}]),
        ('{"verdict": "yes", "reason": "because it', {"verdict": "yes"}),
        ("[10, 20, 3", [10, 20]),
        ("[10, 20, 3]", [10, 20, 3]),
        ("[true, fal", [True]),
        ('{"a": 1, "b"', {"a": 1}),
        ('{"a": 1, "b":', {"a": 1}),
        ('["two\nlines"] ', ["two\nlines"]),
        (r'["C:\dir", "\\d+ \"x\" \u00e9"]', [r"C:\dir", '\\d+ "x" é']),
        ('[["a", "b"], ["c"', [["a", "b"]]),
    ],
)
def test_what_has_one_reading_is_read(text: str, value: Any) -> None:
    assert parse_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON at all",
        "['a', 'b']",
        '{"a": "b" "c": "d"}',
        "{a: 1}",
        "[NaN]",
        "an open [ bracket",
        '{"a": "cut in the first mem',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_nothing_is_guessed(text: str) -> None:
    assert parse_json(text) is None


def test_half_a_character_becomes_a_replacement_mark() -> None:
    assert parse_json(r'["caf\ud83d", "\ud83d\ude00"]') == ["caf\ufffd", "\U0001f600"]
    assert well_formed("a\ud83d") == "a\ufffd"
    assert well_formed("\ud83d\ude00 é") == "\U0001f600 é"
