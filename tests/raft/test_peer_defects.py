"""Bugs read in other projects' RAFT builders, each with a test that this one does not have it.

The names state the rule that holds here; the docstrings say who broke it, and how.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import pipeline_lib.generation
import pipeline_lib.raft
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.config.contexts import ContextConfig, PreferenceConfig
from pipeline_lib.config.synthesis import SplitConfig
from pipeline_lib.corpus.schema import Chunk, Corpus
from pipeline_lib.errors import InputError
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt
from pipeline_lib.generation.completion_segments import completion_key
from pipeline_lib.raft.candidates import Candidate, Rejection, Topic, Written
from pipeline_lib.raft.contexts.assembly import ContextBuilder
from pipeline_lib.raft.dataset.evaluation_set import evaluation_set_fingerprint
from pipeline_lib.raft.dataset.previous import make_recipe
from pipeline_lib.raft.dataset.splitting import split_documents, split_groups
from pipeline_lib.raft.derived.preferences import faults_in, make_pair
from pipeline_lib.raft.funnel import Funnel
from pipeline_lib.raft.gates.build import answer_gates, question_gates, run_gates
from pipeline_lib.raft.keys import topic_key
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rendering import parse_answer, render_row_prompt, render_target
from pipeline_lib.raft.rows import SPLITS, RaftRow, read_rows, split_file
from pipeline_lib.raft.stage import Job, synthesize
from pipeline_lib.raft.writers.chat import ChatWriter
from pipeline_lib.raft.writers.replies import ShownChunk, read_answer, read_questions

NUM_QUESTIONS = 240
"""Ten about each animal."""


@pytest.fixture(scope="module")
def prompts() -> PromptLibrary:
    return PromptLibrary.load()


@pytest.fixture
def build(
    animals: Corpus, make_candidate: Callable[..., Candidate], prompts: PromptLibrary
) -> Callable[..., list[RaftRow]]:
    """Rows of many training questions about the animals, by what is configured of contexts."""

    def make(*, seed: int = 42, num_questions: int = NUM_QUESTIONS, **contexts: Any) -> list[Any]:
        candidates = [
            make_candidate(n % 24, question=f"What does animal {n % 24} do, for the {n}th time?")
            for n in range(num_questions)
        ]
        return _builder(animals.chunks, prompts, seed=seed, **contexts).build(candidates)

    return make


def _builder(
    chunks: Sequence[Chunk], prompts: PromptLibrary, *, seed: int = 42, **contexts: Any
) -> ContextBuilder:
    return ContextBuilder(
        chunks,
        {chunk.document_id: f"Title of {chunk.document_id}" for chunk in chunks},
        SynthesizeConfig(seed=seed, contexts=ContextConfig(**contexts)),
        teacher=None,
        prompts=prompts,
        prompt_version="1",
        teacher_model="t",
    )


def _completion(text: str, finish: Any = "stop") -> Completion:
    return Completion(text, 1, 1, finish)


# Oracles and distractors


def test_the_share_of_rows_with_oracle_is_the_configured_one(build: Any) -> None:
    """RAG-FiT: `raft_p` is documented as the chance of the oracle, and used as that of none.

    llama-cookbook: 80% according to its README, always according to its code. curator: the number
    is never passed on. 240 draws of 0.8 are 192 within three standard deviations of 6.2.
    """
    for probability, low, high in ((0.0, 0, 0), (0.8, 173, 211), (1.0, 240, 240)):
        rows = build(oracle_probability=probability)
        assert low <= sum(row.oracle_present for row in rows) <= high


def test_the_default_oracle_probability_has_one_source(build: Any) -> None:
    """gorilla: the function's default became 0.8, the command line's stayed 1.0 and always won."""
    assert SynthesizeConfig().contexts.oracle_probability == 0.8
    assert build() == build(oracle_probability=0.8)


@pytest.mark.parametrize("number", [0, 1, 3, 7])
def test_a_row_has_as_many_distractors_as_are_configured(build: Any, number: int) -> None:
    """llama-index: min(n, chunks) - 1 of them. curator: always five."""
    for row in build(num_distractors=number, oracle_probability=1):
        assert sum(passage.role == "distractor" for passage in row.context) == number


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_no_passage_comes_twice_with_or_without_oracle(build: Any, probability: float) -> None:
    """gorilla: what replaces a dropped oracle may be a distractor that is there already."""
    for row in build(num_distractors=5, oracle_probability=probability):
        texts = [passage.text for passage in row.context]
        assert len(set(texts)) == len(texts)


def test_the_number_of_passages_does_not_tell_whether_the_oracle_is_there(build: Any) -> None:
    """gorilla, sdg_hub: one fewer in some rows without oracle."""
    assert {len(row.context) for row in build(num_distractors=3, oracle_probability=0.5)} == {4}


def test_a_corpus_with_too_few_passages_is_an_error_that_says_so(
    animals: Corpus, prompts: PromptLibrary
) -> None:
    """gorilla: `random.sample` raises ValueError when there are no more chunks than distractors."""
    with pytest.raises(InputError, match="3 different passages"):
        _builder(animals.chunks[:3], prompts, num_distractors=3)


def test_a_small_corpus_gives_rows_or_explained_rejections(
    animals: Corpus, make_candidate: Any, prompts: PromptLibrary
) -> None:
    """The same: exactly as many passages as a row needs, for rows with and without oracle."""
    chunks = animals.chunks[:4]
    candidates = [
        make_candidate(n % 4, question=f"What is the {n}th question here?") for n in range(40)
    ]
    built = _builder(chunks, prompts, num_distractors=2, oracle_probability=0.5).build(candidates)
    assert all(
        len(row.context) == 3
        if isinstance(row, RaftRow)
        else (row.step, row.reason) == ("context", "too_few_distractors")
        for row in built
    )
    assert any(isinstance(row, RaftRow) for row in built)


def test_a_passage_with_the_answer_is_no_distractor(
    make_candidate: Any, prompts: PromptLibrary
) -> None:
    """gorilla and all others read: a random chunk may answer the question as well."""
    candidate = make_candidate(0, answer="dates")
    others = [
        _chunk(f"other-{n}", f"In book {n} it says that badgers like DATES, most of all.")
        for n in range(20)
    ]
    harmless = [_chunk(f"h-{n}", f"Nothing to see in book {n}.") for n in range(3)]
    builder = _builder([*candidate.topic.chunks, *others, *harmless], prompts, num_distractors=2)
    (row,) = builder.build([candidate])
    assert isinstance(row, RaftRow)
    shown = {passage.chunk_id for passage in row.context if passage.role == "distractor"}
    assert shown <= {chunk.chunk_id for chunk in harmless}


def test_the_oracle_stands_anywhere(build: Any) -> None:
    """RAG-FiT: positives always come first. 240 places of 3, 80 each within four deviations."""
    places = Counter(
        next(n for n, passage in enumerate(row.context) if passage.role == "oracle")
        for row in build(num_distractors=2, oracle_probability=1)
    )
    assert all(51 <= places[place] <= 109 for place in range(3))


def test_what_is_called_the_oracle_is_the_passage_that_answers(build: Any, animals: Corpus) -> None:
    """curator: `oracle_index` is computed wrongly. raft-toolkit: with p below 1 the oracle is
    overwritten before the answer is written, so that label and oracle are of a random chunk."""
    texts = {chunk.chunk_id: chunk.text for chunk in animals.chunks}
    for number, row in enumerate(build(oracle_probability=0.5, refuse_share=0)):
        oracle = animals.chunks[number % 24]
        assert row.oracle_chunk_ids == (oracle.chunk_id,)
        assert {p.text for p in row.context if p.role == "oracle"} <= {oracle.text}
        assert row.final_answer in texts[oracle.chunk_id]


def test_questions_about_one_passage_have_contexts_of_their_own(build: Any) -> None:
    """curator: a cache gives every question of a chunk the same documents."""
    rows = build(num_distractors=3, oracle_probability=1, distractors={"random": 1})
    about_first = [row for row in rows if row.oracle_chunk_id == "chunk-00"]
    contexts = {tuple(passage.chunk_id for passage in row.context) for row in about_first}
    assert len(about_first) == 10
    assert len(contexts) > 7


# Labels


@pytest.mark.parametrize("refuse_share", [0.0, 0.5, 1.0])
def test_a_row_without_oracle_quotes_nothing(build: Any, refuse_share: float) -> None:
    """gorilla: the label "quotes" a document that is not there. sdg_hub: it quotes a distractor."""
    rows = build(oracle_probability=0, refuse_share=refuse_share)
    targets = Counter(row.target for row in rows)
    assert targets["refuse"] / NUM_QUESTIONS == pytest.approx(refuse_share, abs=0.1)
    for row in rows:
        assert row.quotes == row.reasoning == ()
        assert parse_answer(render_target(row), row.context).quotes == ()


def test_every_quote_is_verbatim_in_the_passage_that_it_names(build: Any) -> None:
    """gorilla: nobody looks. The Handbook: "chosen" must be verbatim, but its length is checked."""
    for row in build():
        texts = {passage.chunk_id: passage.text for passage in row.context}
        for quote in row.quotes:
            assert texts[quote.chunk_id][quote.start : quote.end] == quote.text
        assert not row.oracle_present or not faults_in(render_target(row), row.context)


def test_chosen_answers_verify_and_rejected_ones_do_not(build: Any) -> None:
    """The Handbook: only length and punctuation of preference pairs are checked."""
    pairs = [
        make_pair(row, PreferenceConfig(share=1), seed=1, one_more=lambda _row: None)
        for row in build(num_questions=48)
    ]
    made = [pair for pair in pairs if pair is not None]
    assert len(made) > 24
    for pair in made:
        assert faults_in(pair.chosen, pair.context) == frozenset()
        assert faults_in(pair.rejected, pair.context) == {pair.fault}


def test_the_target_is_reasoning_quotes_and_answer(build: Any) -> None:
    """sdg_hub: quote and reasoning are dropped when messages are built."""
    row = build(num_questions=1, oracle_probability=1)[0]
    parsed = parse_answer(render_target(row), row.context)
    assert [quote.text for quote in parsed.quotes] == [quote.text for quote in row.quotes] != []
    assert "tells about animal 0" in parsed.reasoning_text
    assert parsed.final_answer == row.final_answer


def test_the_prompt_is_all_passages_and_the_question(build: Any) -> None:
    """gorilla #534: for two months only the bare question was trained on."""
    row = build(num_questions=1)[0]
    prompt = "\n".join(message["content"] for message in render_row_prompt(row))
    for wanted in [row.question, *(text for p in row.context for text in (p.title, p.text))]:
        assert wanted in prompt


def test_passages_keep_their_source(build: Any) -> None:
    """gorilla: titles and paths are thrown away for `placeholder_title`."""
    for passage in build(num_questions=1)[0].context:
        assert passage.title == f"Title of {passage.document_id}"
        assert passage.document_id.removeprefix("doc") == passage.chunk_id.removeprefix("chunk")


def test_the_same_reasoning_twice_is_no_reasoning(
    make_candidate: Any, metered: Any, prompts: PromptLibrary
) -> None:
    """sdg_hub: the reasoning of every row is one constant sentence."""
    step = make_candidate(0).written.steps[0]
    constant = "The quote supports the answer because it is the answer."
    candidates = []
    for number in range(5):
        candidate = make_candidate(number)
        (own,) = candidate.written.steps
        steps = (own.model_copy(update={"text": constant}),)
        written = Written(steps, candidate.written.final_answer)
        candidates.append(Candidate(topic=candidate.topic, question="Q?", written=written))
    assert step.text != constant
    funnel = Funnel()
    gates = answer_gates(SynthesizeConfig(), metered(), prompts, {})
    assert len(run_gates(gates, candidates, funnel)) == 1
    assert funnel.dropped == {"reasoning.same_as_another_row": 4}


# What a teacher writes


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("1. What is a badger?\n2) Where does it sleep?", 2),
        ("Sure! Here are 2 questions:\n\n- What is a badger?\n- Where does it sleep?", 2),
        ('```json\n{"questions": ["What is a badger?", "Where does it sleep?"]}\n```', 2),
        ('{"questions": ["What is a badger?", "Where does it', 1),
    ],
)
def test_numbers_and_preambles_are_no_part_of_questions(reply: str, expected: int) -> None:
    """gorilla: the line that would clean questions is commented out."""
    questions = ["What is a badger?", "Where does it sleep?"][:expected]
    assert read_questions(_completion(reply), num_wanted=2) == questions


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("It is so.", "stop", "no_answer_marked"),
        ('<quote doc="1">A badger sleeps</quote> <answer>it sl', "length", "truncated"),
        ('So: <quote doc="1">A badger wakes</quote> <answer>x</answer>', "stop", "absent"),
        ("", "filter", "filtered"),
    ],
)
def test_a_bad_answer_is_rejected_with_its_reason(text: str, finish: str, reason: str) -> None:
    """gorilla: no look at truncation, a missing answer tag (PR 422), quotes, or what a content
    filter left (PR 604)."""
    shown = [ShownChunk(_chunk("c", "A badger sleeps in its burrow all day long."), "Badgers")]
    answer = read_answer(_completion(text, finish), shown, is_answerable=True)
    assert isinstance(answer, Rejection)
    assert answer.reason == reason


def test_near_duplicate_questions_are_asked_once(make_candidate: Any) -> None:
    """ragas: 12 of 20 questions identical (issues 789, 809, 1244)."""
    asked = [
        "Where does the old badger sleep in winter?",
        "WHERE did an old badger sleep in winter",
    ]
    candidates = [make_candidate(0, question=f"{question.rstrip('?')}?") for question in asked]
    funnel = Funnel()
    assert run_gates(question_gates(SynthesizeConfig()), candidates, funnel) == candidates[:1]
    assert funnel.dropped == {"new.asked_before": 1}


def test_a_reply_that_cannot_be_read_costs_no_other_one(
    animals: Corpus, metered: Any, prompts: PromptLibrary
) -> None:
    """The Handbook: one parse error loses a batch of 24 prompts."""
    topics = [Topic(split="train", chunks=(chunk,)) for chunk in animals.chunks]

    def script(prompt: Prompt) -> str:
        if "badger" in prompt.chat_messages()[-1]["content"]:
            return '{"questions": [[[[[{'
        return '{"questions": ["What does this animal collect at dusk?"]}'

    writer = ChatWriter(
        SynthesizeConfig(teacher={"kind": "endpoint", "model": "m"}),  # type: ignore[arg-type]
        metered(script),
        {document.document_id: document.title for document in animals.documents},
        prompts,
    )
    read = [each.question for each in writer.ask(topics) if isinstance(each, Candidate)]
    assert read.count("What does this animal collect at dusk?") == 23


# Seeds, splits and what is reused


def test_the_seed_alone_decides_what_is_drawn(build: Any) -> None:
    """gorilla: no seed anywhere. raft-toolkit: SystemRandom, which has none. InstructLab: random
    distractors without one."""
    drawn = {"distractors": {"random": 1}, "num_distractors": 3}
    assert build(seed=1, **drawn) == build(seed=1, **drawn)
    differing = zip(build(seed=1, **drawn), build(seed=2, **drawn), strict=True)
    assert sum(first.context != second.context for first, second in differing) > 200


def test_rows_do_not_depend_on_the_order_of_the_corpus(
    build: Any, animals: Corpus, make_candidate: Any, prompts: PromptLibrary
) -> None:
    """gorilla: rows come in the order in which a folder lists its files. Soup #199: the order of
    documents cannot be repeated."""
    candidate = make_candidate(0)
    rows = [
        _builder(chunks, prompts, num_distractors=4).build([candidate])
        for chunks in (animals.chunks, animals.chunks[::-1])
    ]
    assert rows[0] == rows[1]


def test_the_split_is_by_document_and_not_by_position(animals: Corpus) -> None:
    """Azure: the first 80% of rows train, the next 10% validate, the last 10% test. gorilla: no
    split at all."""
    names = [f"doc-{n:04}" for n in range(2000)]
    split_of = split_groups([(name,) for name in names], SplitConfig(), seed=0).split_of
    for part in (names[:300], names[-300:]):
        assert {split_of[name] for name in part} == set(SPLITS)
    assert set(split_documents(animals.documents, SplitConfig(), 0).split_of.values()) == set(
        SPLITS
    )


def test_what_was_written_is_reused_for_the_same_request_only() -> None:
    """gorilla: checkpoints are keyed by chunk number and output path, so that another model,
    prompt or corpus silently gets stale answers. sdg_hub #350: equal rows break the resume."""
    params = GenerationParams(max_new_tokens=5)
    prompt = Prompt.plain("Question about chunk 1")
    keys = [
        completion_key("model", prompt, params),
        completion_key("model-2", prompt, params),
        completion_key("model", Prompt.plain("Question about another chunk 1"), params),
        completion_key("model", prompt, GenerationParams(max_new_tokens=6)),
        completion_key("model", prompt, GenerationParams(max_new_tokens=5, seed=1)),
    ]
    assert len(set(keys)) == len(keys)
    assert completion_key("model", Prompt.plain("Question about chunk 1"), params) == keys[0]


def test_a_passage_is_asked_about_again_when_its_text_changed() -> None:
    """gorilla: chunk 7 counts as done, whatever chunk 7 is now."""
    chunks = [_chunk("chunk-7", text) for text in ("as it was", "as it is")]
    first, second = (topic_key(Topic(split="train", chunks=(chunk,))) for chunk in chunks)
    assert first != second


@pytest.mark.parametrize(
    "change",
    [
        {"contexts": {"oracle_probability": 0.5}},
        {"teacher": {"temperature": 0.3}},
        {"gates": {"min_grounded_share": 0.1}},
        {"seed": 7},
    ],
)
def test_another_configuration_is_another_dataset_and_takes_over_no_row(
    stand: Any, teacher: Any, small_config: SynthesizeConfig, change: dict[str, Any]
) -> None:
    """gorilla: a changed p, model or prompt silently reuses what is there."""
    other = SynthesizeConfig.model_validate({**small_config.model_dump(), **change})
    first, second = (
        Job.prepare(stand.ws, "demo", config, stand.corpus_ref, stand.index_ref, teacher)
        for config in (small_config, other)
    )
    assert first.made_on(None) != second.made_on(None)
    assert first.recipe != second.recipe


def test_a_changed_corpus_is_another_dataset(
    publish_corpus: Any, corpus_of: Any, teacher: Any, small_config: SynthesizeConfig
) -> None:
    """Flyte's flyte_llama: the corpus is cached by a constant, so a schedule trains on a frozen
    one."""
    texts = [f"Text number {n}." for n in range(5)]
    stands = [publish_corpus(corpus_of(each)) for each in (texts, [*texts, "And one more."])]
    jobs = [
        Job.prepare(each.ws, "demo", small_config, each.corpus_ref, each.index_ref, teacher)
        for each in stands
    ]
    assert jobs[0].made_on(None) != jobs[1].made_on(None)


def test_prompts_and_teacher_are_part_of_what_a_row_is_made_by() -> None:
    """gorilla, again: neither was."""
    recipes = {
        make_recipe(SynthesizeConfig(), prompt_version=version, teacher_model=model)
        for version, model in (("1", "a"), ("2", "a"), ("1", "b"))
    }
    assert len(recipes) == 3


def test_test_questions_stay_the_same_when_all_else_is_drawn_anew(
    stand: Any, teacher: Any, small_config: SynthesizeConfig
) -> None:
    """NVIDIA's flywheel: the evaluation set is drawn anew in each run, so none can be compared."""
    fingerprints = []
    for probability in (1.0, 0.5):
        contexts = ContextConfig(oracle_probability=probability, num_distractors=1)
        config = small_config.model_copy(update={"contexts": contexts})
        made = synthesize(
            stand.ws, "demo", config, stand.corpus_ref, stand.index_ref, teacher,
            searcher=stand.searcher,
        )  # fmt: skip
        rows = read_rows(stand.ws.artifacts.directory(made.ref) / split_file("test"))
        fingerprints.append(evaluation_set_fingerprint(rows))
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("text", ["False", "false", "0", "no", "off"])
def test_a_flag_that_is_given_as_no_is_off(text: str) -> None:
    """gorilla: `--auto-clean-checkpoints False` means True, as `bool("False")` is."""
    assert SynthesizeConfig.model_validate({"incremental": text}).incremental is False


def test_every_number_of_the_contexts_changes_something(build: Any) -> None:
    """curator: `distractors`, `p` and `n_questions` are accepted and never passed on."""
    plain = build(num_questions=48)
    for change in (
        {"num_distractors": 3},
        {"distractors": {"random": 1}, "num_distractors": 3},
        {"oracle_probability": 0.2},
        {"order": "oracle_first"},
        {"questions_per_context": 4},
    ):
        assert build(num_questions=48, **change) != plain


def test_nothing_that_was_stored_is_ever_run_as_code() -> None:
    """gorilla: the checkpoint loader called `eval` on what it read (PR 415)."""
    forbidden = {"eval", "exec", "pickle", "cPickle", "dill", "marshal", "shelve"}
    for package in (pipeline_lib.raft, pipeline_lib.generation):
        for path in Path(package.__path__[0]).rglob("*.py"):
            tree = ast.parse(path.read_text())
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            imported = {
                alias.name.split(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import)
                for alias in node.names
            }
            assert not forbidden & (names | imported), path


def _chunk(chunk_id: str, text: str) -> Chunk:
    return Chunk(
        chunk_id=chunk_id,
        document_id=f"doc-of-{chunk_id}",
        ordinal=0,
        start=0,
        end=len(text),
        text=text,
        num_tokens=len(text.split()),
    )
