"""Which passages questions about two of them can join."""

from __future__ import annotations

from itertools import combinations

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.writers.pairing import MAX_PASSAGES, PassagePairs
from tests.corpus.made_corpora import make_chunk

FILLER = "gravel quartz basalt marble granite slate pumice flint chalk schist gneiss tuff".split()


def chosen(*chunks: Chunk) -> dict[str, str]:
    """Chunk id to that of its partner, where there is one."""
    pairs = PassagePairs(chunks)
    found = {c.chunk_id: pairs.partner(c) for c in chunks}
    return {chunk_id: partner.chunk_id for chunk_id, partner in found.items() if partner}


def edges(*chunks: Chunk) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in chosen(*chunks).items()}


TURBINE = make_chunk("a", "The Kaplan turbine turns in the Rheinfelden power station since 1898.")
STATION = make_chunk("b", "The Rheinfelden station has a Kaplan unit that was built by Voith.")
OTHER = make_chunk(
    "c", "Glaciers carve valleys; their meltwater carries gravel towards the plains."
)


def test_passages_that_share_rare_words_are_a_pair() -> None:
    assert edges(TURBINE, STATION, OTHER) == {frozenset("ab")}


def test_a_pair_is_chosen_from_one_side_only() -> None:
    for name in "bdefghij":
        station = make_chunk(name, STATION.text)
        assert len(chosen(TURBINE, station)) == 1


def test_one_shared_word_is_not_enough() -> None:
    assert (
        chosen(TURBINE, make_chunk("b", "Rheinfelden has a brewery with a long tradition.")) == {}
    )


def test_numbers_and_short_words_do_not_join() -> None:
    assert (
        chosen(
            make_chunk("a", "In 1898 the cat sat, 200 of 300."),
            make_chunk("b", "1898: cat sat 200 300"),
        )
        == {}
    )


def test_what_many_passages_say_joins_none() -> None:
    common = [
        make_chunk(f"x{n}", f"Kaplan Rheinfelden {FILLER[n % 12]} number{n} item{n}")
        for n in range(MAX_PASSAGES + 1)
    ]
    assert chosen(*common) == {}
    assert chosen(*common[:4])


def test_copies_are_no_pair() -> None:
    text = "The Kaplan turbine of the Rheinfelden station turns under a head of six metres of water"
    assert chosen(make_chunk("a", text), make_chunk("b", text + " since 1898.")) == {}


def test_overlapping_neighbours_are_no_pair_but_others_of_the_document_are() -> None:
    first = make_chunk("a", TURBINE.text, "doc")
    for start, expected in ((30, set()), (len(TURBINE.text), {frozenset("ab")})):
        second = make_chunk("b", STATION.text, "doc", start=start)
        assert edges(first, second) == expected


def test_the_passage_that_shares_most_is_chosen_where_it_is_not_itself_the_chooser() -> None:
    source = make_chunk("source", "Voith casts wheels for Francis units in Heidenheim.")
    far = make_chunk("far", "Francis units suit medium heads everywhere.")
    num_chosen = 0
    for number in range(20):
        near = make_chunk(
            f"near{number}", "Voith delivers wicket gates and wheels for Francis units."
        )
        may_choose = PassagePairs([source, near]).partner(source) is near
        partner = PassagePairs([far, near, source]).partner(source)
        assert (partner is near) == may_choose
        num_chosen += may_choose
    assert 4 <= num_chosen <= 16


def test_a_passage_about_other_things_changes_no_pair() -> None:
    texts = [
        f"{left} and {right} are minerals; {left} is harder, {right} is found near rivers."
        for left, right in combinations(FILLER[:6], 2)
    ]
    chunks = [make_chunk(f"id-{n:02}", text) for n, text in enumerate(texts)]
    before = chosen(*chunks)
    assert before
    assert (
        chosen(*chunks, make_chunk("z", "Bakers knead dough before sunrise, then shape loaves."))
        == before
    )
    assert chosen(*reversed(chunks)) == before
