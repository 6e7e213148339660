"""Several questions, one context: every row of a group must be right on its own."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from pipeline_lib.raft.contexts.groups import ContextGroup, make_groups
from pipeline_lib.raft.rows import RaftRow
from tests.corpus.made_corpora import make_chunk
from tests.raft.contexts.made_questions import ask_about, drafts_of, hits_of

TREES = "oak ash elm fir yew box fig bay".split()
CHUNKS = [
    make_chunk(
        f"c{n}", f"The {tree} of this park was planted {n + 2} days before the fair.", "park"
    )
    for n, tree in enumerate(TREES)
]
FILLER = [make_chunk(f"f{n}", f"Nothing of note happened in week {n} of it.") for n in range(20)]


def about(n: int, question: str = "", **fields):
    text = CHUNKS[n].text
    return ask_about(
        CHUNKS[n],
        answer=f"{n + 2} days before",
        quotes=[text[: text.index(" before")]],
        question=question or f"When was the {TREES[n]} planted?",
        **fields,
    )


def group(*candidates, size: int = 4, num_distractors: int = 3, **contexts) -> list[ContextGroup]:
    drafts = drafts_of(*candidates, **contexts)
    return make_groups(drafts, questions_per_context=size, num_distractors=num_distractors)


def shared(groups: list[ContextGroup]) -> list[list[str]]:
    return sorted(sorted(d.candidate.question for d in g.drafts) for g in groups)


def by_group(rows: list[RaftRow]) -> dict[str, list[RaftRow]]:
    found = defaultdict(list)
    for row in rows:
        if row.context_group:
            found[row.context_group].append(row)
    return found


def test_rows_of_a_group_have_the_same_passages_in_the_same_order(make_builder) -> None:
    builder = make_builder(
        [*CHUNKS, *FILLER], num_distractors=3, oracle_probability=1.0, questions_per_context=4
    )
    rows = builder.build([about(n) for n in range(8)])
    groups = by_group(rows)
    assert sorted(len(members) for members in groups.values()) == [4, 4]
    for members in groups.values():
        shown = {tuple((p.chunk_id, p.title, p.text) for p in row.context) for row in members}
        assert len(shown) == 1
        assert len(members[0].context) == 4
        for row in members:
            [oracle] = [p.chunk_id for p in row.context if p.role == "oracle"]
            assert oracle == row.oracle_chunk_id
            assert {p.origin for p in row.context} == {"oracle", "same_document"}


def test_questions_about_one_passage_share_it_and_draw_the_rest_together(make_builder) -> None:
    builder = make_builder(
        [*CHUNKS, *FILLER], num_distractors=3, oracle_probability=1.0, questions_per_context=4
    )
    rows = builder.build([about(0, f"When, {n}?", hits=hits_of(*FILLER[n:])) for n in range(4)])
    [members] = by_group(rows).values()
    assert len(members) == 4
    for row in members:
        assert sorted(p.role for p in row.context) == ["distractor"] * 3 + ["oracle"]


def test_ranks_are_those_of_each_rows_own_question(make_builder) -> None:
    builder = make_builder(
        [*CHUNKS, *FILLER],
        num_distractors=2,
        oracle_probability=1.0,
        questions_per_context=2,
        distractors={"retrieved": 1},
    )
    first, second = builder.build(
        [
            about(0, "First?", hits=hits_of(FILLER[0], FILLER[1])),
            about(0, "Second?", hits=hits_of(FILLER[1], FILLER[5])),
        ]
    )
    assert first.context_group == second.context_group != ""
    assert {p.chunk_id: p.rank for p in first.context} == {"c0": None, "f0": 1, "f1": 2}
    assert {p.chunk_id: p.rank for p in second.context} == {"c0": None, "f0": None, "f1": 1}


def test_a_passage_that_answers_another_question_keeps_the_two_apart() -> None:
    """Its question is answered by the other's oracle too: the row would call it a distractor."""
    twin = make_chunk("twin", "They say the pine was planted 2 days before the fair.", "park")
    other = ask_about(twin, answer="the pine", question="Which tree?")
    assert shared(group(about(0), about(1), other)) == [
        ["When was the ash planted?", "When was the oak planted?"],
        ["Which tree?"],
    ]
    assert shared(group(about(1), other)) == [["When was the ash planted?", "Which tree?"]]


def test_a_group_never_needs_more_passages_than_a_row_has() -> None:
    for num_distractors in range(5):
        for each in group(*(about(n) for n in range(8)), size=16, num_distractors=num_distractors):
            assert len(each.required) <= num_distractors + 1


def test_an_absent_oracle_is_not_brought_in_by_another_question() -> None:
    groups = group(*(about(0, f"When, {n}?") for n in range(40)), size=16, oracle_probability=0.5)
    for each in groups:
        assert len({draft.is_whole for draft in each.drafts}) == 1
    assert {draft.is_whole for each in groups for draft in each.drafts} == {True, False}


def test_grouping_changes_no_rows_target(make_builder) -> None:
    candidates = [about(n % 8, f"When, {n}?") for n in range(60)]
    targets = [
        [
            row.target
            for row in make_builder(
                [*CHUNKS, *FILLER],
                oracle_probability=0.5,
                refuse_share=0.5,
                questions_per_context=q,
            ).build(candidates)
        ]
        for q in (1, 4)
    ]
    assert targets[0] == targets[1]
    assert set(targets[0]) == {"answer", "refuse", "memorise"}


def test_rows_of_a_group_without_oracles_see_none_of_them(make_builder) -> None:
    builder = make_builder(
        [*CHUNKS, *FILLER], num_distractors=3, oracle_probability=0.0, questions_per_context=4
    )
    rows = builder.build([about(n) for n in range(8)])
    assert len(by_group(rows)) == 2
    for members in by_group(rows).values():
        oracles = {row.oracle_chunk_id for row in members}
        for row in members:
            assert len(row.context) == 4
            assert not oracles & {p.chunk_id for p in row.context}


def test_a_question_without_answer_can_share_its_passage_with_one_that_has_one(
    make_builder, unanswerable
) -> None:
    builder = make_builder(
        [*CHUNKS, *FILLER], num_distractors=3, oracle_probability=1.0, questions_per_context=2
    )
    answered, refused = builder.build([about(0), unanswerable(about(0, "Who planted the oak?"))])
    assert answered.context_group == refused.context_group != ""
    assert (answered.target, refused.target) == ("answer", "refuse")
    roles = {p.chunk_id: p.role for p in refused.context}
    assert roles["c0"] == "distractor"
    assert {p.chunk_id for p in answered.context if p.role == "oracle"} == {"c0"}


def test_held_out_questions_and_those_over_two_documents_stand_alone() -> None:
    elsewhere = make_chunk("x", "The pine of that garden is older.", "garden")
    two = ask_about(CHUNKS[0], elsewhere, answer="both", question="Which is older?")
    held_out = [about(n, split="test") for n in range(3)]
    assert all(len(each.drafts) == 1 for each in group(two, *held_out, two))


def test_groups_depend_neither_on_order_nor_on_other_documents() -> None:
    candidates = [about(n) for n in range(8)]
    other = ask_about(make_chunk("x", "The pine is old."), answer="old", question="Is it?")
    assert shared(group(*candidates)) == shared(group(*candidates[::-1]))
    assert shared(group(*candidates, other)) == sorted([*shared(group(*candidates)), ["Is it?"]])


def test_one_question_per_context_is_the_default(make_builder) -> None:
    rows = make_builder([*CHUNKS, *FILLER]).build([about(n) for n in range(8)])
    assert {row.context_group for row in rows} == {""}


def test_rows_are_returned_in_the_order_of_their_candidates(make_builder) -> None:
    candidates = [about(n) for n in (5, 0, 7, 2)]
    builder = make_builder([*CHUNKS, *FILLER], questions_per_context=4, num_distractors=3)
    rows = builder.build(candidates)
    assert [row.question for row in rows] == [c.question for c in candidates]


def test_near_misses_of_a_lone_question_are_not_stopped_by_grouping(make_builder) -> None:
    builder = make_builder(
        [*CHUNKS, *FILLER],
        num_distractors=1,
        oracle_probability=1.0,
        questions_per_context=4,
        distractors={"adversarial": 1},
    )
    lone = replace(about(0), question="When?")
    [row] = builder.build([lone])
    assert {p.origin for p in row.context} == {"oracle", "adversarial"}
