from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.raft import quotes
from pipeline_lib.raft.quotes import QuoteCheck, find_folded, fold, verify_quote


@dataclass(frozen=True)
class P:
    chunk_id: str
    text: str


FOX = P("fox", "The quick brown fox\n   jumps over the lazy dog. It sleeps by day.")
OWL = P("owl", "An owl hunts by night… and sleeps\tby day in old trees near the river.")
BOTH = [FOX, OWL]


def test_white_space_is_folded_and_offsets_point_into_the_original() -> None:
    check = verify_quote("brown fox jumps  over", 1, BOTH)
    assert check == QuoteCheck("verbatim", "fox", 10, 33)
    assert FOX.text[10:33] == "brown fox\n   jumps over"


def test_the_cited_passage_is_numbered_from_one() -> None:
    assert verify_quote("An owl hunts by night", 2, BOTH).status == "verbatim"
    assert verify_quote("An owl hunts by night", 1, BOTH).status == "misattributed"


def test_a_quote_from_another_passage_is_misattributed_and_says_from_where() -> None:
    check = verify_quote("jumps over the lazy dog", 2, BOTH)
    assert (check.status, check.chunk_id) == ("misattributed", "fox")
    assert FOX.text[check.start : check.end] == "jumps over the lazy dog"


@pytest.mark.parametrize("cited", [None, 0, 3, -1])
def test_a_quote_that_cites_no_passage_there_is_cannot_be_verbatim(cited: int | None) -> None:
    assert verify_quote("jumps over the lazy dog", cited, BOTH).status == "misattributed"


def test_the_cited_passage_is_looked_at_first_when_several_have_the_quote() -> None:
    assert verify_quote("by day", 2, BOTH).chunk_id == "owl"
    assert verify_quote("by day", 1, BOTH).chunk_id == "fox"


@pytest.mark.parametrize(
    "quote",
    ["The Quick brown fox", "The quick, brown fox", "the lazy dogs", "fox jump over", "nothing"],
)
def test_case_punctuation_and_spelling_are_not_folded(quote: str) -> None:
    assert verify_quote(quote, 1, [FOX]).status == "absent"


@pytest.mark.parametrize("quote", ["", "  \n ", "…", "..."])
def test_an_empty_quote_is_absent(quote: str) -> None:
    assert verify_quote(quote, 1, [FOX]).status == "absent"


@pytest.mark.parametrize(
    "quote",
    [
        "The quick brown fox … It sleeps by day.",
        "The quick brown fox [...] sleeps by day.",
        "The quick brown fox. . .lazy dog. It sleeps",
        "The quick brown the lazy dog.",
        "The quick brown fox jumps hunts by night… and sleeps",
    ],
)
def test_verbatim_pieces_in_the_wrong_places_are_stitched(quote: str) -> None:
    check = verify_quote(quote, 1, BOTH)
    assert check == QuoteCheck("stitched", None, None, None)


def test_an_ellipsis_that_stands_in_the_passage_is_verbatim() -> None:
    assert verify_quote("by night… and sleeps by day", 2, BOTH).status == "verbatim"


@pytest.mark.parametrize(
    "quote",
    ["The quick brown fox swims", "The quick the lazy", "fox … night … day", "by day by day"],
)
def test_pieces_of_fewer_than_three_words_are_not_stitched(quote: str) -> None:
    assert verify_quote(quote, 1, BOTH).status == "absent"


def test_stitching_finds_a_split_that_the_longest_pieces_would_miss() -> None:
    """Greedy takes "a b c d" and is left with "e f"; "a b c" + "d e f" works."""
    passages = [P("1", "a b c d"), P("2", "d e f")]
    assert verify_quote("a b c d e f", 1, passages).status == "stitched"


def test_without_passages_every_quote_is_absent() -> None:
    assert verify_quote("a b c", 1, []).status == "absent"


WORDS = st.lists(st.sampled_from(["a", "bb", "c.", "d", "e,"]), min_size=1, max_size=20)
GAPS = st.sampled_from([" ", "\n", "  ", "\t\n ", "\u00a0", "\u2003"])


@given(WORDS, st.data())
def test_every_span_of_words_is_verbatim_however_it_is_spaced(
    words: list[str], data: st.DataObject
) -> None:
    text = data.draw(GAPS).join(words)
    start = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(start + 1, len(words)))
    quote = data.draw(GAPS).join(words[start:end])
    check = verify_quote(quote, 1, [P("x", text)])
    assert check.status == "verbatim"
    assert fold(text[check.start : check.end]) == fold(quote)


@given(st.text(max_size=40), st.text(max_size=15))
def test_finding_agrees_with_searching_the_folded_text(text: str, needle: str) -> None:
    place = find_folded(needle, text)
    if not fold(needle):
        assert place is None
    elif place is None:
        assert fold(needle) not in fold(text)
    else:
        assert fold(text[place[0] : place[1]]) == fold(needle)
        assert text[place[0] : place[1]] == text[place[0] : place[1]].strip()


@given(st.text(max_size=60), st.integers(-2, 4), st.lists(st.text(max_size=60), max_size=3))
def test_verification_is_total(quote: str, cited: int, texts: list[str]) -> None:
    check = verify_quote(quote, cited, [P(str(n), text) for n, text in enumerate(texts)])
    if check.status in ("verbatim", "misattributed"):
        assert check.chunk_id is not None
        assert fold(texts[int(check.chunk_id)][check.start : check.end]) == fold(quote)
    else:
        assert (check.chunk_id, check.start, check.end) == (None, None, None)


def slow_status(quote: str, cited: int, texts: list[str]) -> str:
    """The definition, tried out: every way of cutting the quote into pieces of three words."""
    wanted, folded = " ".join(quote.split()), [" ".join(text.split()) for text in texts]
    if not wanted:
        return "absent"
    places = [number for number, text in enumerate(folded, start=1) if wanted in text]
    if places:
        return "verbatim" if cited in places else "misattributed"

    def falls_apart(words: list[str]) -> bool:
        return any(
            any(" ".join(words[:cut]) in text for text in folded)
            and (cut == len(words) or falls_apart(words[cut:]))
            for cut in range(3, len(words) + 1)
        )

    pieces = [piece.split() for piece in wanted.split("…") if piece.split()]
    whole = falls_apart(wanted.split())
    return "stitched" if whole or (pieces and all(map(falls_apart, pieces))) else "absent"


QUOTED = st.lists(st.sampled_from(["a", "b", "c", "d", "…"]), max_size=12).map(" ".join)


@given(QUOTED, st.integers(0, 3), st.lists(QUOTED, max_size=3), GAPS)
def test_statuses_agree_with_the_definition_tried_out(
    quote: str, cited: int, texts: list[str], gap: str
) -> None:
    passages = [P(str(n), text.replace(" ", gap)) for n, text in enumerate(texts)]
    assert verify_quote(quote, cited, passages).status == slow_status(quote, cited, texts)


def test_a_text_is_folded_once_however_many_quotes_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[str] = []
    monkeypatch.setattr(quotes, "fold", lambda text: folded.append(text) or fold(text))
    text = "A text that no other test has, of   some words. " * 20
    for _ in range(5):
        assert verify_quote("text that no other test has", 1, [P("x", text)]).start == 2
    assert folded.count(text) == 1
