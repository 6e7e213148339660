from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.raft.wording import containment, content_words, overlap


def test_content_words_are_stemmed_and_without_stop_words() -> None:
    assert content_words("The modules imported by using it") == ["modul", "import"]
    assert content_words("close closes closed closing") == ["clos"] * 4


def test_overlap_is_the_jaccard_similarity() -> None:
    assert overlap("ab", "bc") == 1 / 3
    assert overlap("", "") == 0


def test_containment_is_the_shared_share_of_the_shorter_text() -> None:
    """ "a b c d e f" has two 5-grams, of which the other text has one."""
    assert containment("a b c d e f", "x a b c d e y z") == 0.5
    assert containment("a b", "a b c d e") == 0
    assert containment("", "a") == 0


@given(st.text(max_size=60))
def test_a_text_contains_itself(text: str) -> None:
    assert containment(text, text) in (0, 1)
