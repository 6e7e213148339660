"""Bugs read in other projects' RAFT builders, each with a test that this one does not have it.

The names state the rule that holds here; the docstrings say who broke it, and how.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import pipeline_lib.generation
import pipeline_lib.raft
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.config.contexts import ContextConfig
from pipeline_lib.config.synthesis import SplitConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt
from pipeline_lib.generation.completion_segments import completion_key
from pipeline_lib.raft.candidates import Candidate, Rejection, Topic, Written
from pipeline_lib.raft.dataset.evaluation_set import evaluation_set_fingerprint
from pipeline_lib.raft.dataset.previous import make_recipe
from pipeline_lib.raft.dataset.splitting import split_documents, split_groups
from pipeline_lib.raft.funnel import Funnel
from pipeline_lib.raft.gates.build import answer_gates, question_gates, run_gates
from pipeline_lib.raft.keys import topic_key
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rows import SPLITS, read_rows, split_file
from pipeline_lib.raft.showing import ShownPassage
from pipeline_lib.raft.stage import Job, synthesize
from pipeline_lib.raft.writers.chat import ChatWriter
from pipeline_lib.raft.writers.replies import read_answer, read_questions
from tests.corpus.made_corpora import make_chunk


def _completion(text: str, finish: Any = "stop") -> Completion:
    return Completion(text, 1, 1, finish)


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
    shown = [
        ShownPassage(make_chunk("c", "A badger sleeps in its burrow all day long."), "Badgers")
    ]
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
    chunks = [make_chunk("chunk-7", text) for text in ("as it was", "as it is")]
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
