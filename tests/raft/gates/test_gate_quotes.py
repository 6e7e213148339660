from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline_lib.config import GateConfig
from pipeline_lib.raft.candidates import Candidate
from pipeline_lib.raft.gates.quotes import VerifiedQuotes, grounded_share
from pipeline_lib.raft.rendering import REFUSAL_ANSWER
from pipeline_lib.raft.rows import Quote

Make = Callable[..., Candidate]
TEXTS = (
    "The library opens at nine and closes at six on weekdays.",
    "The museum opens at ten and closes at five every day but Monday.",
)


def check(candidate: Candidate, **config: float) -> str | None:
    (rejection,) = VerifiedQuotes(GateConfig(**config)).check([candidate])  # type: ignore[arg-type]
    return None if rejection is None else rejection.reason


def test_a_verbatim_quote_passes(make_candidate: Make) -> None:
    assert check(make_candidate()) is None


@pytest.mark.parametrize(
    ("quote", "problem"),
    [
        (Quote(chunk_id="chunk-0", start=0, end=21, text="The library opens at nine"), "misplaced"),
        (Quote(chunk_id="chunk-1", start=0, end=25, text="The library opens at nine"),
         "misattributed"),
        (Quote(chunk_id="chunk-0", start=0, end=12, text="The museum opens at ten"),
         "misattributed"),
        (Quote(chunk_id="chunk-9", start=0, end=25, text="The library opens at nine"),
         "misattributed"),
        (Quote(chunk_id="chunk-0", start=0, end=25, text="The library opens at seven"), "absent"),
        (Quote(chunk_id="chunk-0", start=0, end=0, text=""), "absent"),
        (Quote(chunk_id="chunk-0", start=0, end=60,
               text="The library opens at nine … closes at five every day"), "stitched"),
    ],
)  # fmt: skip
def test_a_quote_that_its_passage_does_not_have_is_refused(
    make_candidate: Make, quote: Quote, problem: str
) -> None:
    assert check(make_candidate(texts=TEXTS, quotes=[quote])) == problem


def test_one_false_quote_among_true_ones_is_enough(make_candidate: Make) -> None:
    quotes = ["The library opens at nine", "closes at seven on weekdays"]
    assert check(make_candidate(texts=TEXTS, quotes=quotes)) == "absent"


def test_short_quotes_are_no_evidence(make_candidate: Make) -> None:
    both = make_candidate(quotes=["closes at noon", "On Saturdays the library"])
    assert check(both, min_quotes=1, min_quote_chars=20) is None
    assert check(both, min_quotes=2, min_quote_chars=20) == "too_short"
    assert check(both, min_quotes=3, min_quote_chars=20) == "too_few"
    assert check(make_candidate(quotes=[]), min_quotes=0) is None


def test_an_answer_must_be_grounded_in_its_oracles(make_candidate: Make) -> None:
    """Of "noon, said the old librarian" the passage has one content word of four."""
    candidate = make_candidate(answer="noon, said the old librarian")
    assert grounded_share(candidate.written.final_answer, candidate) == 0.25  # type: ignore[union-attr]
    assert check(candidate, min_grounded_share=0.3) == "answer_not_grounded"
    assert check(candidate, min_grounded_share=0.25) is None


def test_an_answer_of_two_passages_may_be_grounded_in_both(make_candidate: Make) -> None:
    candidate = make_candidate(
        texts=TEXTS, answer="library weekdays, museum Monday", quotes=[TEXTS[0], TEXTS[1]]
    )
    assert check(candidate, min_grounded_share=1) is None


def test_a_known_answer_is_verified_but_its_words_are_its_own(make_candidate: Make) -> None:
    assert check(make_candidate(answer="midday", known_answer="midday")) is None
    false = make_candidate(answer="midday", known_answer="midday", quotes=["closes at eleven"])
    assert check(false) == "absent"


def test_a_refusal_quotes_nothing(make_candidate: Make) -> None:
    refusal = make_candidate(answer=REFUSAL_ANSWER, reasoning="", quotes=(), kind="unanswerable")
    assert check(refusal) is None
