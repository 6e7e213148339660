"""Near misses: one fact is another, and nothing of the row's evidence is left."""

from __future__ import annotations

import re

import pytest

from pipeline_lib.raft.candidates import Candidate
from pipeline_lib.raft.contexts.adversarial import Changer
from pipeline_lib.raft.contexts.distractors import Distractor
from pipeline_lib.raft.quotes import fold
from tests.corpus.made_corpora import make_chunk
from tests.raft.contexts.made_questions import ask_about, group_of

SHOP = make_chunk(
    "shop",
    "The shop on the corner was opened by Anna Smith on 5 March 1991. It sells 12,500 kinds of "
    "tea to people who like it. The shop is not open on Sundays, not even in December 2004.",
)
NAMES = make_chunk("names", "People such as Bo Li, Carl Young and Dora Hill came by.")


def changed(*candidates: Candidate, count: int = 1, seed: int = 0, others=(NAMES,)):
    corpus = (*(chunk for c in candidates for chunk in c.topic.chunks), *others)
    return Changer(lambda: corpus, seed=seed).passages(group_of(*candidates), count)


def name_of(number: int) -> str:
    first, second = (chr(97 + digit) for digit in divmod(number, 26))
    return f"N{first}{second}"


def only(distractors: list[Distractor]) -> Distractor:
    [distractor] = distractors
    return distractor


def test_a_changed_number_keeps_its_form() -> None:
    quote = "It sells 12,500 kinds of tea"
    made = only(changed(ask_about(SHOP, answer="12,500", quotes=[quote])))
    match = re.fullmatch(r"number: 12,500 -> (\d\d,\d00)", made.change)
    assert match is not None
    assert made.text == SHOP.text.replace("12,500", match[1])
    assert (made.origin, made.source_chunk_id, made.document_id) == (
        "adversarial",
        "shop",
        "doc-shop",
    )
    assert made.chunk_id.startswith("made-up-")


def test_a_changed_year_is_near() -> None:
    quote = "opened by Anna Smith on 5 March 1991"
    years = set()
    for seed in range(20):
        made = only(changed(ask_about(SHOP, answer="1991", quotes=[quote]), seed=seed))
        match = re.fullmatch(r"date: 1991 -> (\d{4})", made.change)
        assert match is not None
        assert 0 < abs(int(match[1]) - 1991) <= 30
        years.add(match[1])
    assert len(years) > 8


def test_a_changed_day_exists() -> None:
    for seed in range(20):
        made = only(changed(ask_about(SHOP, answer="in March"), seed=seed))
        assert re.fullmatch(r"date: March -> (January|May|July|August|October)", made.change)


def test_a_name_becomes_another_of_the_corpus() -> None:
    quote = "opened by Anna Smith"
    made = only(changed(ask_about(SHOP, answer="Anna Smith", quotes=[quote])))
    assert made.change in {f"name: Anna Smith -> {n}" for n in ("Bo Li", "Carl Young", "Dora Hill")}
    assert "Anna" not in made.text


def test_without_another_name_there_is_no_near_miss() -> None:
    assert changed(ask_about(SHOP, answer="Anna Smith"), others=()) == []


def test_a_quoted_statement_is_turned_round_where_the_answer_is_in_other_words() -> None:
    quote = "The shop is not open on Sundays"
    made = only(changed(ask_about(SHOP, answer="It is closed", quotes=[quote])))
    assert made.change == "negation: is not -> is"
    assert "The shop is open on Sundays" in made.text


def test_a_fact_is_changed_wherever_it_stands() -> None:
    twice = make_chunk("t", "In 1991 it began. Whoever came in 1991, or by no 19912, stayed long.")
    made = only(changed(ask_about(twice, answer="1991", quotes=["In 1991 it began."])))
    year = made.change[-4:]
    assert made.text == twice.text.replace("In 1991", f"In {year}").replace("in 1991", f"in {year}")


def test_details_that_the_answer_does_not_rest_on_are_left_alone() -> None:
    """Else the passage would answer still."""
    quote = "The shop on the corner was opened by Anna Smith on 5 March 1991."
    for seed in range(10):
        for made in changed(ask_about(SHOP, answer="1991", quotes=[quote]), count=9, seed=seed):
            assert made.change.startswith("date: 1991")
            assert "1991" not in made.text


@pytest.mark.parametrize("answer", ["tea", "people who like it", "yes", "?"])
def test_an_answer_that_nothing_can_be_changed_in_gives_no_near_miss(answer: str) -> None:
    quote = "It sells 12,500 kinds of tea to people who like it."
    for made in changed(ask_about(SHOP, answer=answer, quotes=[quote]), count=9):
        raise AssertionError(made.change)


def test_a_name_is_not_taken_for_the_same_word_in_small_letters() -> None:
    chunk = make_chunk("w", "We met Will there. What people will do is told in 12 books of his.")
    for made in changed(ask_about(chunk, answer="they will be told it in 12 books"), count=9):
        assert made.change.startswith("number: 12")


def test_further_quoted_sentences_are_cut_out() -> None:
    quotes = ["It sells 12,500 kinds of tea", "The shop is not open on Sundays"]
    made = only(changed(ask_about(SHOP, answer="12,500", quotes=quotes)))
    assert not any(fold(quote) in fold(made.text) for quote in quotes)
    assert made.text.startswith("The shop on the corner")
    assert "Sundays" not in made.text


def test_a_quoted_list_mark_is_cut_out_like_a_sentence() -> None:
    chunk = make_chunk(
        "l", "What there is:\n* 12 rows of it\nand that is all that is to be told here."
    )
    made = only(changed(ask_about(chunk, answer="12 rows", quotes=["*"])))
    assert "*" not in made.text
    assert made.text.startswith("What there is:\n")


def test_too_little_left_is_no_near_miss() -> None:
    chunk = make_chunk("s", "It has 12 rows. " + "The rest of it is quoted as a whole by the row.")
    quotes = ["It has 12 rows.", "The rest of it is quoted as a whole by the row."]
    assert changed(ask_about(chunk, answer="12", quotes=quotes)) == []


def test_several_near_misses_differ() -> None:
    made = changed(ask_about(SHOP, answer="on 5 March 1991"), count=3)
    assert len({distractor.text for distractor in made}) == 3
    assert len({distractor.change for distractor in made}) == 3


def test_no_near_miss_answers_another_question_of_its_context() -> None:
    """Both questions are about the passage, and one change leaves the other's answer in it."""
    kinds = ask_about(SHOP, answer="12,500", question="How many?")
    founder = ask_about(SHOP, answer="Anna Smith", question="Who?")
    assert len(changed(kinds)) == 1
    assert changed(kinds, founder) == []


def test_no_near_miss_without_its_oracle_nor_for_held_out_questions() -> None:
    """A refusal beside a passage that seems to answer would be the wrong lesson."""
    train = ask_about(SHOP, answer="12,500")
    absent = group_of(train, oracle_probability=0.0)
    held_out = group_of(ask_about(SHOP, answer="12,500", split="test"))
    changer = Changer(lambda: (SHOP, NAMES), seed=0)
    assert len(changer.passages(group_of(train), 1)) == 1
    assert changer.passages(absent, 1) == []
    assert changer.passages(held_out, 1) == []


def test_the_same_seed_makes_the_same_in_any_order_of_the_corpus() -> None:
    candidate = ask_about(SHOP, answer="Anna Smith")
    others = [make_chunk(f"n{n}", f"We met {name_of(n)} Young there.") for n in range(600)]
    once, again = changed(candidate, others=others), changed(candidate, others=others[::-1])
    assert once == again
    assert changed(candidate, others=others, seed=1) != once


def test_rows_show_what_was_changed(make_builder) -> None:
    filler = [make_chunk(f"f{n}", f"Nothing of note happened in week {n} of it.") for n in range(5)]
    builder = make_builder(
        [SHOP, *filler],
        num_distractors=2,
        oracle_probability=1.0,
        distractors={"adversarial": 1, "random": 1},
    )
    quote = "It sells 12,500 kinds of tea"
    [row] = builder.build([ask_about(SHOP, answer="12,500", quotes=[quote])])
    assert sorted(passage.origin for passage in row.context) == ["adversarial", "oracle", "random"]
    [made] = [passage for passage in row.context if passage.origin == "adversarial"]
    assert made.role == "distractor"
    assert made.source_chunk_id == "shop"
    assert made.change.startswith("number: 12,500 -> ")
    assert quote not in made.text
    [plain] = builder.build([ask_about(SHOP, answer="tea", question="What?")])
    assert sorted(passage.origin for passage in plain.context) == ["oracle", "random", "random"]
    assert builder.num_not_made == {"adversarial": 1}
