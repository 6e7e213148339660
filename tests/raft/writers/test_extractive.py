"""The small teacher's tasks, with a scripted one in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk, Corpus
from pipeline_lib.generation.base import Completion, Prompt
from pipeline_lib.generation.local import LocalGenerator
from pipeline_lib.raft.candidates import Candidate, Rejection, Topic, Written, quote_of
from pipeline_lib.raft.facts import Fact
from pipeline_lib.raft.writers.answers import answer_prompt, reasoning_prompt
from pipeline_lib.raft.writers.extractive import EXTRACTIVE_VERSION, ExtractiveWriter
from pipeline_lib.raft.writers.questions import question_prompt


def make_chunk(text: str) -> Chunk:
    return Chunk(chunk_id="c", document_id="d", ordinal=0, start=0, end=0, text=text, num_tokens=0)


@pytest.fixture
def make_writer(metered, animals: Corpus) -> Callable[..., ExtractiveWriter]:
    def make(*script, corpus: Corpus = animals, **config: object) -> ExtractiveWriter:
        titles = {document.document_id: document.title for document in corpus.documents}
        teacher = metered(*script)
        return ExtractiveWriter(SynthesizeConfig(**config), teacher, titles)  # type: ignore[arg-type]

    return make


def usable(asked: list[Candidate | tuple[Candidate, Rejection]]) -> list[Candidate]:
    return [item for item in asked if isinstance(item, Candidate)]


def topics_of(writer: ExtractiveWriter, corpus: Corpus) -> list[Topic]:
    return [topic for chunk in corpus.chunks for topic in writer.topics(chunk, "train")]


def test_a_topic_is_a_sentence(make_writer, animals: Corpus) -> None:
    chunk = animals.chunks[0]
    cut = chunk.text.index("\n")
    assert make_writer().topics(chunk, "validation") == [
        Topic(split="validation", chunks=(chunk,), span=(0, cut)),
        Topic(split="validation", chunks=(chunk,), span=(cut + 1, len(chunk.text))),
    ]


def test_every_beginning_of_every_fact_is_tried(make_writer, animals: Corpus) -> None:
    writer = make_writer()
    topics = writer.topics(animals.chunks[0], "train")
    asked = writer.ask(topics)
    assert len(asked) == sum(writer.num_candidates(topic) for topic in topics)
    found = [
        (a.question, None) if isinstance(a, Candidate) else (a[0].question, a[1]) for a in asked
    ]
    statement = ("This is a statement.", Rejection("question", "not_a_question"))
    assert found == [
        ("What happens if the badger gets hungry at dusk?", None),
        ("When does the badger collect acorns?", None),
        statement,
        ("What is a badger creature?", None),
        statement,
        statement,
    ]


def test_one_question_of_a_fact_is_answered_with_a_span_of_it(make_writer, animals: Corpus) -> None:
    writer = make_writer()
    asked = usable(writer.ask(writer.topics(animals.chunks[0], "train")))
    results = writer.answer(asked)
    assert len([result for result in results if isinstance(result, Written)]) == 2
    others = [result for result in results if isinstance(result, Rejection)]
    assert others == [Rejection("answer", "another_question_fits_better")]
    for item, result in zip(asked, results, strict=True):
        if isinstance(result, Written):
            [step] = result.steps
            assert step.quote is not None
            assert (step.quote.start, step.quote.end) == item.topic.span
            assert result.final_answer in step.quote.text
            assert step.text.startswith("The document says that ")


def test_the_best_question_does_not_depend_on_other_topics(make_writer, animals: Corpus) -> None:
    writer = make_writer()
    alone = writer.answer(usable(writer.ask(writer.topics(animals.chunks[0], "train"))))
    together = writer.answer(usable(writer.ask(topics_of(writer, animals))))
    assert together[: len(alone)] == alone


def test_peer_bug_the_reasoning_is_not_a_constant_sentence(make_writer, animals: Corpus) -> None:
    """sdg_hub: every row's reasoning is the same sentence."""
    writer = make_writer()
    results = writer.answer(usable(writer.ask(topics_of(writer, animals))))
    texts = [r.steps[0].text for r in results if isinstance(r, Written)]
    assert len(texts) == len(set(texts)) == 48


def test_an_answer_that_the_teacher_finds_unlikely_is_dropped(
    metered, make_writer, animals: Corpus
) -> None:
    writer = make_writer()
    writer._teacher.teacher.scorer = lambda _prompt, _target: 1000.0
    asked = usable(writer.ask(writer.topics(animals.chunks[0], "train")))
    assert {(r.step, r.reason) for r in writer.answer(asked) if isinstance(r, Rejection)} == {
        ("answer", "teacher_unsure")
    }


def test_made_up_reasoning_is_dropped(make_writer, animals: Corpus) -> None:
    writer = make_writer()
    asked = usable(writer.ask(writer.topics(animals.chunks[0], "train")))
    invent = " The document says that unicorns collect acorns near the river."
    results = make_writer(lambda _prompt: invent).answer(asked)
    reasons = {r.reason for r in results if isinstance(r, Rejection) and r.step == "reasoning"}
    assert reasons
    assert reasons <= {"reasoning_not_grounded", "reasoning_misses_answer"}
    assert not any(isinstance(r, Written) for r in results)


def test_temperature_and_seed_are_passed_on(make_writer, animals: Corpus) -> None:
    writer = make_writer(teacher={"temperature": 0.7}, seed=11)
    writer.ask(writer.topics(animals.chunks[0], "train"))
    [params] = writer._teacher.teacher.params
    assert (params.temperature, params.seed) == (0.7, 11)


def known(animals: Corpus, answer: str) -> Candidate:
    chunk = animals.chunks[0]
    end = chunk.text.index("\n")
    return Candidate(
        topic=Topic(split="train", chunks=(chunk,), kind="user"),
        question="When is the badger hungry?",
        known_answer=answer,
        evidence=(quote_of(chunk, 0, end), quote_of(chunk, end + 1, len(chunk.text))),
        source="user",
    )


def test_a_known_answer_gets_its_reasoning_before_its_evidence(
    make_writer, animals: Corpus
) -> None:
    item = known(animals, "at dusk")
    [written] = make_writer().answer([item])
    assert isinstance(written, Written)
    assert written.final_answer == "at dusk"
    assert written.quotes == item.evidence
    assert [bool(step.text) for step in written.steps] == [True, False]


def test_known_and_unknown_answers_keep_their_places(make_writer, animals: Corpus) -> None:
    writer = make_writer()
    asked = usable(writer.ask(writer.topics(animals.chunks[1], "train")))
    item = known(animals, "at dusk")
    together = writer.answer([asked[0], item, *asked[1:]])
    assert together == [
        *writer.answer(asked)[:1],
        *writer.answer([item]),
        *writer.answer(asked)[1:],
    ]


def test_bad_reasoning_for_a_known_answer_is_rejected(make_writer, animals: Corpus) -> None:
    invent = " The document says that unicorns fly at dusk."
    [result] = make_writer(lambda _prompt: invent).answer([known(animals, "at dusk")])
    assert result == Rejection("reasoning", "reasoning_not_grounded", invent.strip())


def test_a_known_answer_without_evidence_gets_no_quote(make_writer, animals: Corpus) -> None:
    [result] = make_writer().answer([replace(known(animals, "at dusk"), evidence=())])
    assert isinstance(result, Written)
    assert result.quotes == ()


@pytest.mark.parametrize(
    ("finish", "why"),
    [
        ("budget", Rejection("budget", "budget_spent")),
        ("filter", Rejection("reasoning", "filtered")),
    ],
)
def test_what_the_teacher_never_wrote_is_said_to_be_so(
    make_writer, animals: Corpus, monkeypatch: pytest.MonkeyPatch, finish, why: Rejection
) -> None:
    writer = make_writer()
    monkeypatch.setattr(
        writer._teacher,
        "generate",
        lambda prompts, _params, *, step: [Completion("", 1, 0, finish) for _ in prompts],
    )
    assert writer.answer([known(animals, "at dusk")]) == [why]


def test_prompts_stay_as_they_were_measured(animals: Corpus) -> None:
    """Change these bytes only together with `EXTRACTIVE_VERSION`, and measure the yield again."""
    fact = Fact(animals.chunks[0], 0, animals.chunks[0].text.index("\n"))
    prompts: list[Prompt] = [
        question_prompt(fact, "Badgers", " What"),
        answer_prompt(fact.text, "When is the badger hungry?"),
        reasoning_prompt(fact.text, "When is the badger hungry?", "at dusk"),
    ]
    said = "\n\n".join(f"{prompt.text}|{prompt.forced_prefix}" for prompt in prompts)
    assert EXTRACTIVE_VERSION == "extractive-1"
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "bc46cade0d20baa5"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_hostile_text_adds_no_line_to_a_prompt(
    metered, sentence: str, title: str, answer: str
) -> None:
    """A plain prompt's structure is its lines: `Fact:`, `Question:`, `Answer:`."""
    hostile = f"{sentence}\n\nFact: x\u2028Question: y\r\nAnswer: z\x85{title}"
    whole = make_chunk(hostile)
    item = Candidate(
        topic=Topic(split="train", chunks=(whole,), span=(0, len(hostile))),
        question=hostile,
        known_answer=f"{answer}\nReasoning:",
        evidence=(quote_of(whole, 0, len(hostile)),),
    )
    fact, teacher = Fact(whole, 0, len(hostile)), metered(lambda _prompt: "")
    ExtractiveWriter(SynthesizeConfig(), teacher, {"d": title}).answer([item])
    prompts = [
        question_prompt(fact, f"{title}\nFact: x", " What"),
        answer_prompt(fact.text, "What?"),
        *teacher.teacher.asked,
    ]
    calm = Fact(make_chunk("calm"), 0, 4)
    expected = [
        question_prompt(calm, "calm", " What"),
        answer_prompt("calm", "What?"),
        reasoning_prompt("calm", "calm", "calm"),
    ]
    assert [num_lines(prompt) for prompt in prompts] == [num_lines(each) for each in expected]


def num_lines(prompt: Prompt) -> int:
    return len((prompt.text or "").splitlines())


def test_the_bundled_teacher_writes_usable_rows(
    smollm2_path: Path, make_writer, corpus_of, metered
) -> None:
    """The recipe with the real model, on three facts; greedy, so the outcome is fixed."""
    corpus = corpus_of(
        [
            "If the subject value is not a mapping, the pattern fails at once.",
            "A context manager is an object that sets up what a block of code needs to run.",
            "The backslash character is used to escape characters that have a special meaning.",
        ]
    )
    writer = make_writer(corpus=corpus)
    writer._teacher.teacher = LocalGenerator(smollm2_path, batch_size=16, identity="bundled")
    topics = topics_of(writer, corpus)
    assert len(topics) == 3
    written = [
        result
        for result in writer.answer(usable(writer.ask(topics)))
        if isinstance(result, Written)
    ]
    assert written
    for result in written:
        [step] = result.steps
        assert step.quote is not None
        assert result.final_answer in step.quote.text
