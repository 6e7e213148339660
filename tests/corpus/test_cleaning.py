"""Cleaning changes layout and invisible characters, never words."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.corpus.cleaning import clean_text, clean_title


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("page one\fpage two\x85three\u2028four", "page one\npage two\nthree\nfour"),
        ("a  \t\nb\u00a0\n", "a\nb"),
        ("a\n\n\nb", "a\n\n\nb"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\n \n\t\n  \n\nb", "a\n\n\nb"),
        ("\n\n    indented\n  less\n\n", "    indented\n  less"),
        ("a\x00b\x07c\x1b[0m", "abc[0m"),
        ("exam\u00adple \ufeffword\u2060s", "example words"),
        ("cafe\u0301", "caf\u00e9"),
        ("x² ﬁne ½ Ⅳ \uff21\uff22", "x² ﬁne ½ Ⅳ \uff21\uff22"),
        ("left\u200dright \u200e", "left\u200dright \u200e"),
        ("bad \ud800 half", "bad \ufffd half"),
        (" \n\t\n", ""),
    ],
)
def test_cleaning(text: str, expected: str) -> None:
    assert clean_text(text) == expected


TEXT = st.text(st.one_of(st.sampled_from("a \n\r\t\f\x00\x85\u00ad\u0301\u2028e"), st.characters()))


@given(TEXT)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once


@given(TEXT)
def test_cleaned_text_has_no_controls_and_no_trailing_space(text: str) -> None:
    cleaned = clean_text(text)
    kinds = {unicodedata.category(c) for c in cleaned if c not in "\n\t"}
    assert not kinds & {"Cc", "Cs"}
    assert all(line == line.rstrip() for line in cleaned.split("\n"))
    assert "\n\n\n\n" not in cleaned
    assert unicodedata.is_normalized("NFC", cleaned)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_visible_characters_stay_in_order(text: str) -> None:
    def visible(value: str) -> str:
        return "".join(unicodedata.normalize("NFC", value).split())

    assert visible(clean_text(text)) == visible(text)


def test_titles_are_one_short_line() -> None:
    assert clean_title("  A\n  long\u00ad \t title ") == "A long title"
    assert clean_title("x" * 200) == "x" * 200
    assert clean_title("x" * 201) == "x" * 199 + "…"


def test_a_long_run_of_spaces_costs_no_more_than_its_length() -> None:
    """Its length squared would be minutes here."""
    text = f"a{' ' * 500_000}b"
    assert clean_text(text) == text
