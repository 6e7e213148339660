from __future__ import annotations

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import Completion, Prompt
from pipeline_lib.raft.contexts.judging import read_verdict
from tests.corpus.made_corpora import make_chunk
from tests.raft.contexts.made_questions import ask_about, hits_of

ORACLE = make_chunk("oracle", "Foxes sleep by day in deep burrows under old trees.")
NEAR = [
    make_chunk(f"c{n}", f"Passage number {n} tells about foxes and item {n}.") for n in range(9)
]
REWORDED = make_chunk("reworded", "Holes far below the ground are where a fox rests.")


def says_yes_to(*words: str):
    def script(prompt: Prompt) -> str:
        shown = prompt.chat_messages()[-1]["content"]
        answers = any(word in shown for word in words)
        return '{"answers": true}' if answers else '{"answers": false}'

    return script


def asked(question: str = "Where do foxes sleep?", **fields):
    hits = hits_of(REWORDED, ORACLE, *NEAR)
    return ask_about(ORACLE, answer="in deep burrows", question=question, hits=hits, **fields)


@pytest.fixture
def judging(make_builder, metered):
    """A builder whose retrieved distractors are judged by a script, and the teacher."""

    def make(script, finish: str = "stop", **contexts):
        teacher = metered(script, finish=finish)
        settings = {
            "num_distractors": 2,
            "oracle_probability": 1.0,
            "distractors": {"retrieved": 1},
        }
        builder = make_builder(
            [ORACLE, REWORDED, *NEAR],
            teacher=teacher,
            judge_distractors=True,
            **settings | contexts,
        )
        return builder, teacher.teacher

    return make


def distractors(row) -> set[str]:
    return {passage.chunk_id for passage in row.context if passage.role == "distractor"}


def test_a_passage_that_answers_in_other_words_is_left_out(judging) -> None:
    builder, teacher = judging(says_yes_to("far below the ground"))
    [row] = builder.build([asked()])
    assert distractors(row) == {"c0", "c1"}
    assert builder.guarded == {"judged_to_answer": 1}
    assert len(teacher.asked) == 3  # the two best, and the one that replaced the first


def test_replacements_are_judged_too_until_all_pass(judging) -> None:
    builder, teacher = judging(says_yes_to("far below", "item 0", "item 1", "item 3"))
    [row] = builder.build([asked()])
    assert distractors(row) == {"c2", "c4"}
    assert builder.guarded == {"judged_to_answer": 4}
    assert len(teacher.asked) == 6


def test_random_passages_take_the_places_where_all_retrieved_ones_answer(judging) -> None:
    builder, _ = judging(says_yes_to(""), distractors={"retrieved": 1}, num_distractors=1)
    near = hits_of(REWORDED, *NEAR[:2])
    [row] = builder.build([ask_about(ORACLE, answer="in deep burrows", hits=near)])
    [distractor] = [passage for passage in row.context if passage.role == "distractor"]
    assert distractor.origin == "random"
    assert distractor.chunk_id not in {"reworded", "c0", "c1"}


def test_the_judge_sees_passage_question_and_answer(judging) -> None:
    builder, teacher = judging(says_yes_to("no such words"))
    builder.build([asked()])
    first = teacher.asked[0].chat_messages()[-1]["content"]
    assert '<document id="1" title="Page reworded">' in first
    assert "Question: Where do foxes sleep?" in first
    assert "in deep burrows" in first
    assert teacher.params[0].json_schema


def test_random_passages_are_not_judged(judging) -> None:
    builder, teacher = judging(says_yes_to(""), distractors={"random": 1})
    builder.build([asked()])
    assert teacher.asked == []


def test_without_budget_no_unread_passage_is_used(judging) -> None:
    builder, _ = judging(says_yes_to("no such words"), finish="budget")
    [row] = builder.build([ask_about(ORACLE, answer="burrows", hits=hits_of(*NEAR[:4]))])
    assert {p.origin for p in row.context if p.role == "distractor"} == {"random"}
    assert builder.guarded["not_judged"] == 4


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"answers": false}', None),
        ('{"answers": true}', "judged_to_answer"),
        ('Here it is:\n```json\n{"answers": false}\n```', None),
        ("No, it does not.", None),
        ("**Yes**", "judged_to_answer"),
        ('{"answers": "maybe"}', "judged_unclear"),
        ("[]", "judged_unclear"),
        ("Perhaps.", "judged_unclear"),
        ("", "judged_unclear"),
    ],
)
def test_only_a_clear_no_lets_a_passage_pass(text: str, verdict: str | None) -> None:
    assert read_verdict(Completion(text, 1, 1, "stop")) == verdict


def test_judging_needs_a_teacher_that_can(make_builder) -> None:
    with pytest.raises(ConfigError, match="judge_distractors need a teacher"):
        make_builder(judge_distractors=True)
