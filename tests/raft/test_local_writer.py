"""The small teacher's tasks, with a scripted one in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.generation.local import LocalGenerator
from pipeline_lib.raft.drafts import Asked, Failure, KnownAnswer, Written, quote_of
from pipeline_lib.raft.local_writer import LocalWriter
from pipeline_lib.raft.recorded import RecordedTeacher


@pytest.fixture
def make_writer(partial, animals: Corpus) -> Callable[..., LocalWriter]:
    def make(generator, corpus: Corpus = animals, **config: object) -> LocalWriter:
        recorded = RecordedTeacher(lambda: generator, generator.model_identity, partial)
        titles = {document.document_id: document.title for document in corpus.documents}
        return LocalWriter(recorded, titles, SynthesizeConfig(**config))  # type: ignore[arg-type]

    return make


def usable(asked: list[Asked]) -> list[Asked]:
    return [item for item in asked if item.problem is None]


def test_every_beginning_of_every_fact_is_tried(make_writer, teacher, animals: Corpus) -> None:
    writer = make_writer(teacher)
    facts = writer.facts(animals.chunks[0])
    assert len(facts) == 2
    asked = writer.ask(facts)
    assert len(asked) == sum(writer.num_candidates(fact) for fact in facts)
    assert [(item.question, item.problem) for item in asked] == [
        ("What happens if the badger gets hungry at dusk?", None),
        ("When does the badger collect acorns?", None),
        ("This is a statement.", "not_a_question"),
        ("What is a badger creature?", None),
        ("This is a statement.", "not_a_question"),
        ("This is a statement.", "not_a_question"),
    ]


def test_one_question_of_a_fact_is_answered_with_a_span_of_it(
    make_writer, teacher, animals: Corpus
) -> None:
    writer = make_writer(teacher)
    asked = usable(writer.ask(writer.facts(animals.chunks[0])))
    results = writer.answer(asked)
    written = [result for result in results if isinstance(result, Written)]
    assert len(written) == 2
    others = [result for result in results if isinstance(result, Failure)]
    assert others == [Failure("answer", "another_question_fits_better")]
    for item, result in zip(asked, results, strict=True):
        if isinstance(result, Written):
            [step] = result.steps
            assert step.quote is not None
            assert step.quote.text == item.fact.quote
            assert result.final_answer in item.fact.text
            assert step.text.startswith("The document says that ")


def test_peer_bug_the_reasoning_is_not_a_constant_sentence(
    make_writer, teacher, animals: Corpus
) -> None:
    """sdg_hub: every row's reasoning is the same sentence."""
    writer = make_writer(teacher)
    facts = [fact for chunk in animals.chunks for fact in writer.facts(chunk)]
    results = writer.answer(usable(writer.ask(facts)))
    texts = [r.steps[0].text for r in results if isinstance(r, Written)]
    assert len(texts) == len(set(texts)) == 48


def test_an_answer_that_the_teacher_finds_unlikely_is_dropped(
    make_writer, teacher, animals: Corpus
) -> None:
    teacher.scorer = lambda _prompt, _target: 1000.0
    writer = make_writer(teacher)
    asked = usable(writer.ask(writer.facts(animals.chunks[0])))
    assert {(r.stage, r.reason) for r in writer.answer(asked) if isinstance(r, Failure)} == {
        ("answer", "teacher_unsure")
    }


def test_made_up_reasoning_is_dropped(make_writer, teacher, animals: Corpus) -> None:
    invent = teacher.script

    def script(prompt) -> str:
        if (prompt.text or "").endswith("Reasoning:"):
            return " The document says that unicorns collect acorns near the river."
        return invent(prompt)

    teacher.script = script
    writer = make_writer(teacher)
    results = writer.answer(usable(writer.ask(writer.facts(animals.chunks[0]))))
    reasons = {r.reason for r in results if isinstance(r, Failure) and r.stage == "reasoning"}
    assert reasons <= {"reasoning_not_grounded", "reasoning_misses_answer"}
    assert reasons
    assert not any(isinstance(r, Written) for r in results)


def test_temperature_and_seed_are_passed_on(make_writer, teacher, animals: Corpus) -> None:
    writer = make_writer(teacher, teacher={"temperature": 0.7}, seed=11)
    writer.ask(writer.facts(animals.chunks[0]))
    assert (teacher.params[0].temperature, teacher.params[0].seed) == (0.7, 11)


def known(animals: Corpus, answer: str) -> KnownAnswer:
    chunk = animals.chunks[0]
    end = chunk.text.index("\n")
    quotes = (quote_of(chunk, 0, end), quote_of(chunk, end + 1, len(chunk.text)))
    return KnownAnswer("When is the badger hungry?", answer, chunk, quotes)


def test_a_known_answer_gets_its_reasoning_before_its_evidence(
    make_writer, teacher, animals: Corpus
) -> None:
    item = known(animals, "at dusk")
    [written] = make_writer(teacher).explain([item])
    assert written is not None
    assert written.final_answer == "at dusk"
    assert [step.quote for step in written.steps] == list(item.evidence)
    assert [bool(step.text) for step in written.steps] == [True, False]


def test_bad_reasoning_for_a_known_answer_is_not_kept(
    make_writer, scripted, animals: Corpus
) -> None:
    teacher = scripted(lambda _prompt: " The document says that unicorns fly at dusk.")
    assert make_writer(teacher).explain([known(animals, "at dusk")]) == [None]


def test_the_bundled_teacher_writes_usable_rows(smollm2_path: Path, make_writer, corpus_of) -> None:
    """The recipe with the real model, on three facts; greedy, so the outcome is fixed."""
    corpus = corpus_of(
        [
            "If the subject value is not a mapping, the pattern fails at once.",
            "A context manager is an object that sets up what a block of code needs to run.",
            "The backslash character is used to escape characters that have a special meaning.",
        ]
    )
    generator = LocalGenerator(smollm2_path, batch_size=16, identity="bundled")
    writer = make_writer(generator, corpus=corpus)
    facts = [fact for chunk in corpus.chunks for fact in writer.facts(chunk)]
    assert len(facts) == 3
    asked = usable(writer.ask(facts))
    written = [result for result in writer.answer(asked) if isinstance(result, Written)]
    assert written
    for result in written:
        [step] = result.steps
        assert step.quote is not None
        assert result.final_answer in step.quote.text
