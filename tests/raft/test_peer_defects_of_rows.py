"""Bugs read in other projects' RAFT builders, each with a test that rows here do not have it.

The names state the rule that holds here; the docstrings say who broke it, and how.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.config.contexts import ContextConfig, PreferenceConfig
from pipeline_lib.corpus.schema import Chunk, Corpus
from pipeline_lib.errors import InputError
from pipeline_lib.raft.candidates import Candidate
from pipeline_lib.raft.contexts.assembly import ContextBuilder
from pipeline_lib.raft.derived.preferences import faults_in, make_pair
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rendering import parse_answer, render_row_prompt, render_target
from pipeline_lib.raft.rows import RaftRow
from tests.corpus.made_corpora import make_chunk

NUM_QUESTIONS = 240
"""Ten about each animal."""


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
        make_chunk(f"other-{n}", f"In book {n} it says that badgers like DATES, most of all.")
        for n in range(20)
    ]
    harmless = [make_chunk(f"h-{n}", f"Nothing to see in book {n}.") for n in range(3)]
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
