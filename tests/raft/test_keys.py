from __future__ import annotations

from dataclasses import replace

from pipeline_lib.raft.candidates import Topic
from pipeline_lib.raft.keys import (
    derived_row_id,
    made_up_id,
    make_row_id,
    make_row_key,
    topic_key,
    unit_interval,
)
from pipeline_lib.raft.rows import Passage
from tests.corpus.made_corpora import make_chunk

PASSAGE = Passage(
    chunk_id="c", document_id="d", title="T", text="x", role="oracle", origin="oracle"
)


def key(*passages: Passage, **fields) -> str:
    settings = {"oracle_texts": ["x"], "prompt_version": "v", "teacher_model": "t", "seed": 1}
    return make_row_key("row", passages or (PASSAGE,), **settings | fields)


def test_row_ids_name_question_and_passages() -> None:
    assert make_row_id("q", ["c"]) == make_row_id("q", ["c"])
    assert len({make_row_id(*parts) for parts in (("q", "c"), ("q", "d"), ("r", "c"))}) == 3
    assert make_row_id("q", ["c", "d"]) != make_row_id("q", ["d", "c"])
    assert derived_row_id("a", "quotes") != derived_row_id("a", "ranking")


def test_a_made_up_passage_is_named_by_its_source_and_text() -> None:
    assert made_up_id("c", "x") == made_up_id("c", "x")
    assert len({made_up_id("c", "x"), made_up_id("c", "y"), made_up_id("d", "x")}) == 3
    assert made_up_id("c", "x").startswith("made-up-")


def test_row_keys_change_with_everything_that_a_row_rests_on() -> None:
    def with_passage(**fields) -> str:
        return key(PASSAGE.model_copy(update=fields))

    changed = [
        key(PASSAGE, PASSAGE),
        with_passage(text="y"),
        with_passage(title="U"),
        with_passage(role="distractor"),
        key(oracle_texts=["y"]),
        key(prompt_version="w"),
        key(teacher_model="u"),
        key(seed=2),
        key(target="refuse"),
        key(known_answer="x"),
    ]
    assert len({key(), *changed}) == 1 + len(changed)


def test_ranks_and_scores_do_not_change_a_row_key() -> None:
    """They move with every document that joins the index, and no model sees them."""
    assert key(PASSAGE.model_copy(update={"rank": 3, "score": 0.5})) == key()


def test_topics_are_named_by_text_span_kind_and_style() -> None:
    topic = Topic(split="train", chunks=(make_chunk("c", "x"),))
    changed = [
        replace(topic, chunks=(make_chunk("c", "y"),)),
        replace(topic, kind="how_why"),
        replace(topic, style="formal"),
        replace(topic, span=(0, 1)),
    ]
    assert len({topic_key(topic), *map(topic_key, changed)}) == 5
    assert topic_key(replace(topic, split="test")) == topic_key(topic)


def test_draws_are_even_and_depend_on_every_part() -> None:
    draws = [unit_interval(1, "row", number) for number in range(2000)]
    assert len(set(draws)) == 2000
    assert 0 <= min(draws) < 0.01
    assert 0.99 < max(draws) < 1
    assert 0.47 < sum(draws) / 2000 < 0.53
