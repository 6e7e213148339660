"""The chat teacher's tasks, with a scripted one in its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.raft.chat_writer import ChatWriter
from pipeline_lib.raft.drafts import Asked, Failure, KnownAnswer, Written
from pipeline_lib.raft.facts import Fact
from pipeline_lib.raft.recorded import RecordedTeacher

QUESTION = "What happens if the badger gets hungry?"
QUOTE = "it quietly collects acorns near the river"
STITCHED = "hungry at dusk, acorns near the river"
GOOD = (
    f'At dusk the badger looks for food. <quote doc="1">{QUOTE}</quote> So it gathers them.\n'
    "<answer>It collects acorns</answer>"
)


@pytest.fixture
def make_writer(partial, animals: Corpus) -> Callable[..., ChatWriter]:
    def make(teacher) -> ChatWriter:
        recorded = RecordedTeacher(lambda: teacher, teacher.model_identity, partial)
        titles = {document.document_id: document.title for document in animals.documents}
        return ChatWriter(recorded, titles, SynthesizeConfig())

    return make


@pytest.fixture
def fact(animals: Corpus) -> Fact:
    return Fact(animals.chunks[0], 0, len(animals.chunks[0].text))


def test_a_passage_is_asked_about_as_a_whole(make_writer, scripted, fact: Fact) -> None:
    writer = make_writer(scripted(lambda _: ""))
    assert writer.facts(fact.chunk) == [fact]


@pytest.mark.parametrize(
    ("reply", "questions"),
    [
        (
            "1. What does the badger collect?\n\n2) When is the badger hungry?",
            [("What does the badger collect?", None), ("When is the badger hungry?", None)],
        ),
        (
            "- Question: What does the badger collect?\nHere you are.",
            [("What does the badger collect?", None), ("Here you are.", "not_a_question")],
        ),
        (
            "What does the passage say about badgers?",
            [("What does the passage say about badgers?", "points_to_the_passage")],
        ),
        ("", [("", "not_a_question")]),
    ],
)
def test_lines_become_questions_or_counted_rejects(
    make_writer, scripted, fact: Fact, reply: str, questions: list[tuple[str, str | None]]
) -> None:
    asked = make_writer(scripted(lambda _: reply)).ask([fact])
    assert [(item.question, item.problem) for item in asked] == questions


def test_the_passage_is_shown_escaped(make_writer, scripted, fact: Fact) -> None:
    teacher = scripted(lambda _: "")
    make_writer(teacher).ask([fact])
    content = teacher.asked[0].chat_messages()[-1]["content"]
    assert content.startswith('<document id="1" title="Page 00">\nIf the badger')


def test_a_good_target_becomes_steps_with_offsets(make_writer, scripted, fact: Fact) -> None:
    [written] = make_writer(scripted(lambda _: GOOD)).answer([Asked(fact, QUESTION)])
    assert isinstance(written, Written)
    assert [step.text for step in written.steps] == [
        "At dusk the badger looks for food.",
        "So it gathers them.",
    ]
    quote = written.steps[0].quote
    assert quote is not None
    assert fact.chunk.text[quote.start : quote.end] == quote.text == QUOTE
    assert written.final_answer == "It collects acorns"


@pytest.mark.parametrize(
    ("reply", "stage", "reason"),
    [
        (GOOD.replace("<answer>", "").replace("</answer>", ""), "answer", "no_answer_marked"),
        (
            "<answer>The documents do not contain the answer.</answer>",
            "answer",
            "refused",
        ),
        (GOOD.replace("It collects acorns", "Purple pineapples"), "answer", "answer_not_grounded"),
        ("It is so. <answer>collects acorns</answer>", "reasoning", "no_quote"),
        (GOOD.replace(QUOTE, STITCHED), "reasoning", "quote_stitched"),
        (GOOD.replace(QUOTE, "it collects all of the acorns there"), "reasoning", "quote_absent"),
        (GOOD.replace('doc="1"', 'doc="2"'), "reasoning", "quote_misattributed"),
        (GOOD.replace(QUOTE, "acorns near"), "reasoning", "quote_too_short"),
        (
            f'<quote doc="1">{QUOTE}</quote><answer>acorns</answer>',
            "reasoning",
            "only_quotes",
        ),
    ],
)
def test_peer_bug_labels_without_tag_or_verbatim_quote_are_dropped(
    make_writer, scripted, fact: Fact, reply: str, stage: str, reason: str
) -> None:
    """gorilla raft.py: no check for a missing `<ANSWER>:` or for quotes that are not verbatim."""
    [failure] = make_writer(scripted(lambda _: reply)).answer([Asked(fact, QUESTION)])
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.reason) == (stage, reason)


def test_peer_bug_truncated_labels_are_dropped(make_writer, scripted, fact: Fact) -> None:
    """gorilla raft.py: no check for truncation."""
    teacher = scripted(lambda _: GOOD, finish="length")
    [failure] = make_writer(teacher).answer([Asked(fact, QUESTION)])
    assert isinstance(failure, Failure)
    assert failure.reason == "truncated"


def test_a_known_answer_is_told_and_kept_word_for_word(make_writer, scripted, fact: Fact) -> None:
    teacher = scripted(lambda _: GOOD)
    known = KnownAnswer(QUESTION, "Acorns, by <|x|> the river!", fact.chunk, ())
    [written] = make_writer(teacher).explain([known])
    assert written is not None
    assert written.final_answer == "Acorns, by <|x|> the river!"
    content = teacher.asked[0].chat_messages()[-1]["content"]
    assert r"The correct answer is known: Acorns, by <\|x|> the river!" in content
