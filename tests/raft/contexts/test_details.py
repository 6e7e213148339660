from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline_lib.raft.contexts.details import details_of, names_of, negated, shape_of


def found(text: str) -> list[tuple[str, str]]:
    return [(detail.kind, detail.text) for detail in details_of(text)]


@pytest.mark.parametrize(
    ("text", "details"),
    [
        ("It has 12,500 rows.", [("number", "12,500")]),
        ("It costs 3.75 or less.", [("number", "3.75")]),
        ("It came in 1991.", [("date", "1991")]),
        ("On 5 March 1991.", [("number", "5"), ("date", "March"), ("date", "1991")]),
        ("Released 1991-02-20.", [("date", "1991-02-20")]),
        ("They closed on Mondays.", [("date", "Mondays")]),
        ("They took three rows.", [("number", "three")]),
        ("So Anna Smith went.", [("name", "Anna Smith")]),
        ("They call NASA here.", [("name", "NASA")]),
        ("They call max_rows and print() here.", [("name", "max_rows"), ("name", "print()")]),
        ("It is open.", [("negation", "is")]),
        ("It is not open.", [("negation", "is not")]),
        ("They cannot come.", [("negation", "cannot")]),
        ("They can't come.", [("negation", "can't")]),
        ("They won\u2019t come.", [("negation", "won\u2019t")]),
        ("It isn't open.", [("negation", "isn't")]),
        ("They never come.", [("negation", "never")]),
    ],
)
def test_details_are_found_by_their_form(text: str, details: list[tuple[str, str]]) -> None:
    assert found(text) == details


@pytest.mark.parametrize(
    "text",
    [
        "Use version 3.11.2 here.",  # versions, times, paths and parts of words are no numbers
        "Come by 12:30 sharp.",
        "See a/12/b here.",
        "The x86 family ended.",
        "Badgers sleep.",  # a capital that the sentence owes
        "They march on.",
    ],
)
def test_what_only_looks_like_a_detail_is_none(text: str) -> None:
    assert found(text) == []


def test_details_do_not_overlap_and_are_where_they_say() -> None:
    text = "On Monday, 5 March 1991, Anna Smith said it is not in `max_rows` of 12,500."
    details = details_of(text)
    assert all(text[d.start : d.end] == d.text for d in details)
    assert all(a.end <= b.start for a, b in pairwise(details))


@pytest.mark.parametrize(
    ("words", "opposite"),
    [
        ("is", "is not"),
        ("is not", "is"),
        ("isn't", "is"),
        ("can", "cannot"),
        ("cannot", "can"),
        ("Can't", "Can"),
        ("won\u2019t", "will"),
        ("doesn't", "does"),
        ("always", "never"),
        ("never", "always"),
    ],
)
def test_a_negation_is_turned_round(words: str, opposite: str) -> None:
    assert negated(words) == opposite


def test_names_have_shapes() -> None:
    assert shape_of("Anna Smith") == shape_of("Bo Li") == "Aa Aa"
    assert shape_of("NASA") == "A"
    assert shape_of("max_rows") == "a_a"
    assert shape_of("`x2`") == "`a0`"


def test_months_and_days_are_no_names() -> None:
    assert names_of("We met Anna on Monday, 5 March, in Oslo.") == ["Anna", "Oslo"]
