"""What the bundled templates teach is what is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.generation.base import Completion
from pipeline_lib.raft.candidates import Candidate, Topic, Written
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rendering import REFUSAL_ANSWER, parse_answer
from pipeline_lib.raft.showing import ShownPassage
from pipeline_lib.raft.writers.chat import ChatWriter
from pipeline_lib.raft.writers.kinds import PAIRED_KINDS
from pipeline_lib.raft.writers.replies import read_answer

PROMPTS = PromptLibrary.load()
ANSWERS = {
    "answer": {"documents": "D", "question": "Q?"},
    "answer-known": {"documents": "D", "question": "Q?", "known_answer": "K"},
}


def system_of(name: str, **values: str | int) -> str:
    [system, _] = PROMPTS.messages(name, **values)
    return system["content"]


@pytest.mark.parametrize("name", ANSWERS)
def test_the_example_of_an_answer_is_one_that_would_be_kept(name: str, animals: Corpus) -> None:
    _, _, example = system_of(name, **ANSWERS[name]).partition("Example of the form:\n")
    example, _, _ = example.partition("\n\n")
    text = "On Saturdays the library closes at noon, and it stays closed on public holidays."
    shown = [ShownPassage(replace(animals.chunks[0], text=text), "The city library")]
    read = read_answer(Completion(example, 1, 1, "stop"), shown, is_answerable=True)
    assert isinstance(read, Written)
    assert read.final_answer == "At noon"


def test_the_refusal_that_is_asked_for_is_read_as_one() -> None:
    system = system_of("answer", **ANSWERS["answer"])
    asked_for = f"<answer>{REFUSAL_ANSWER}</answer>"
    assert system.endswith(asked_for)
    assert parse_answer(asked_for, []).is_refusal


@pytest.mark.parametrize("kind", PROMPTS.names("ask-"))
def test_documents_are_mentioned_in_the_number_in_which_they_are_shown(kind: str) -> None:
    values = {"documents": "D", "num_questions": 3, "style_instruction": "Be kind."}
    system = system_of(f"ask-{kind}", **values)
    own_words = system.partition("\n")[0]
    is_about_two = "document 1" in own_words or "one document" in own_words
    assert is_about_two == (kind in PAIRED_KINDS)
    assert system.startswith("Write 3 different questions")
    assert "\nBe kind.\n" in system


def test_a_template_of_the_users_own_replaces_the_bundled_one(
    tmp_path: Path, metered, animals: Corpus
) -> None:
    own = "{% block user %}{{ documents }} Frage: {{ question }}{% endblock %}"
    (tmp_path / "answer.jinja").write_text(own)
    teacher = metered(lambda _prompt: "")
    titles = {document.document_id: document.title for document in animals.documents}
    writer = ChatWriter(SynthesizeConfig(), teacher, titles, PromptLibrary.load(tmp_path))
    topic = Topic(split="train", chunks=animals.chunks[:1])
    writer.answer([Candidate(topic=topic, question="Was frisst er?")])
    [message] = teacher.teacher.asked[0].chat_messages()
    assert message["role"] == "user"
    assert message["content"].endswith("</document> Frage: Was frisst er?")
