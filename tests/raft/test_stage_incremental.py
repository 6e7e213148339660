"""Datasets that build on each other: what is taken over, what is made again, what is retired."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.generation.base import Prompt
from pipeline_lib.raft.dataset.evaluation_set import EvaluationSet
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.stage import StageResult

NUM_DOCUMENTS = 50
_TREES = """
    alder apple ash aspen bamboo banyan baobab beech birch cashew cedar cherry chestnut clove
    cypress ebony elder elm fig fir ginkgo hazel hemlock hickory holly ironwood juniper kauri
    larch laurel lemon linden magnolia mahogany mango maple mulberry oak olive palm pear pine
    plum poplar rowan sequoia spruce teak walnut willow
""".split()


def tree_text(number: int, metres: int | None = None) -> str:
    """One passage with one fact; `metres` changes it."""
    tree = _TREES[number]
    metres = number + 11 if metres is None else metres
    names = [hashlib.sha256(f"{tree} {n}".encode()).hexdigest()[:9] for n in range(18)]
    return (
        f"The {tree} of the garden grows {metres} metres tall within forty years, in the beds "
        f"{' '.join(names[:9])}. Beside the {tree} lie the plots {' '.join(names[9:])}, which are "
        "dug over twice."
    )


def gardener(prompt: Prompt) -> str:
    """A chat teacher that knows how tall trees are."""
    system, user = (message["content"] for message in prompt.chat_messages())
    found = re.search(r"(The (\w+) of the garden grows (\d+) metres tall)", user)
    if found is None:
        return '{"questions": []}'
    sentence, tree, metres = found.groups()
    if '{"questions"' in system:
        return json.dumps(
            {"questions": [f"How tall does the garden's {tree} grow within forty years?"]}
        )
    return (
        f'The {tree} is measured there. <quote doc="1">{sentence}</quote>\n'
        f"<answer>{metres} metres</answer>"
    )


@pytest.fixture
def garden(corpus_of: Callable[..., Corpus]) -> Corpus:
    return corpus_of([tree_text(number) for number in range(NUM_DOCUMENTS)])


@pytest.fixture
def config() -> SynthesizeConfig:
    return SynthesizeConfig.model_validate(
        {
            "num_questions": NUM_DOCUMENTS,
            "min_rows": 3,
            "seed": 1,
            "teacher": {"kind": "endpoint", "model": "gardener"},
            "questions": {"kinds": {"factual": 1}, "per_passage": 1},
        }
    )


def rows_of(stand, result: StageResult) -> dict[str, RaftRow]:
    return {row.row_id: row for row in stand.rows(result)}


def with_text(corpus: Corpus, number: int, text: str) -> Corpus:
    """The corpus after one document was edited; its chunk gets another id, as ingestion does."""
    documents, chunks = list(corpus.documents), list(corpus.chunks)
    mark = hashlib.sha256(text.encode()).hexdigest()
    documents[number] = replace(documents[number], text=text, content_sha256=mark)
    chunks[number] = replace(chunks[number], chunk_id=f"chunk-{mark[:8]}", text=text, end=len(text))
    return Corpus(tuple(documents), tuple(chunks))


def uses(row: RaftRow, chunk_id: str) -> bool:
    return chunk_id in {p.chunk_id for p in row.context} | set(row.oracle_chunk_ids)


def edited_document(corpus: Corpus, rows: dict[str, RaftRow]) -> int:
    """A training document that other rows have as a distractor too."""
    for number, chunk in enumerate(corpus.chunks):
        asked = [row for row in rows.values() if chunk.chunk_id in row.oracle_chunk_ids]
        shown = [row for row in rows.values() if uses(row, chunk.chunk_id)]
        if asked and asked[0].split == "train" and len(shown) > 2:
            return number
    raise AssertionError("no such document")


def test_one_edited_document_of_fifty_is_asked_about_again_and_no_other(
    publish_corpus, garden, config, scripted
) -> None:
    first_teacher = scripted(gardener)
    first_stand = publish_corpus(garden)
    first = first_stand.synthesize(first_teacher, config)
    before = rows_of(first_stand, first)
    assert len(before) > 40
    assert len(first_teacher.asked) >= 2 * len(before)
    number = edited_document(garden, before)
    old_chunk = garden.chunks[number].chunk_id
    second_stand = publish_corpus(with_text(garden, number, tree_text(number, metres=99)))
    second_teacher = scripted(gardener)
    second = second_stand.synthesize(second_teacher, config)
    after = rows_of(second_stand, second)
    # One question and one answer about the edited document; nothing else is said again.
    assert len(second_teacher.asked) == 2
    assert all(_TREES[number] in str(p.chat_messages()) for p in second_teacher.asked)
    assert len(after) == len(before)
    unchanged = {i: row for i, row in before.items() if not uses(row, old_chunk)}
    assert {i: after[i].model_dump_json() for i in unchanged} == {
        i: row.model_dump_json() for i, row in unchanged.items()
    }
    assert not any(uses(row, old_chunk) for row in after.values())
    [made_again] = [row for row in after.values() if row.oracle_document_id == f"doc-{number:02}"]
    if made_again.target == "answer":
        assert made_again.final_answer == "99 metres"
    evaluation_set = EvaluationSet.read(second_stand.ws.artifacts.directory(second.ref))
    assert second.counts["num_carried_over"] == len(unchanged) + evaluation_set.num_remapped
    assert second.dropped["retired.oracle_changed"] == 1


def test_rows_of_a_deleted_document_are_retired_and_counted(
    publish_corpus, garden, config, scripted
) -> None:
    first_stand = publish_corpus(garden)
    before = rows_of(first_stand, first_stand.synthesize(scripted(gardener), config))
    number = edited_document(garden, before)
    smaller = Corpus(
        tuple(d for n, d in enumerate(garden.documents) if n != number),
        tuple(c for n, c in enumerate(garden.chunks) if n != number),
    )
    stand = publish_corpus(smaller)
    teacher = scripted(gardener)
    result = stand.synthesize(teacher, config)
    assert teacher.asked == []
    assert result.dropped["retired.document_deleted"] == 1
    gone = garden.chunks[number].chunk_id
    assert not any(uses(row, gone) for row in rows_of(stand, result).values())


def test_the_same_run_again_is_reused_and_not_built_upon(
    publish_corpus, garden, config, scripted
) -> None:
    first_stand = publish_corpus(garden)
    first = first_stand.synthesize(scripted(gardener), config)
    assert first_stand.synthesize(scripted(gardener), config).ref == first.ref
    stand = publish_corpus(with_text(garden, 3, tree_text(3, metres=99)))
    second = stand.synthesize(scripted(gardener), config)
    again = stand.synthesize(scripted(gardener), config)
    assert again.reused
    assert again.ref == second.ref
    assert stand.ws.artifacts.manifest(second.ref).input_refs["previous"] == first.ref


def test_a_document_that_changes_back_gets_its_rows_again_without_being_paid_for_again(
    publish_corpus, garden, config, scripted
) -> None:
    first_stand = publish_corpus(garden)
    before = rows_of(first_stand, first_stand.synthesize(scripted(gardener), config))
    number = edited_document(garden, before)
    changed_stand = publish_corpus(with_text(garden, number, tree_text(number, metres=99)))
    changed_stand.synthesize(scripted(gardener), config)
    teacher = scripted(gardener)
    back = rows_of(first_stand, first_stand.synthesize(teacher, config))
    assert teacher.asked == []
    assert {row.question for row in back.values()} == {row.question for row in before.values()}


def test_more_rows_are_added_to_those_that_are_there(
    publish_corpus, garden, config, scripted
) -> None:
    stand = publish_corpus(garden)
    few = config.model_copy(update={"num_questions": 20})
    before = rows_of(stand, stand.synthesize(scripted(gardener), few))
    teacher = scripted(gardener)
    result = stand.synthesize(teacher, config)
    after = rows_of(stand, result)
    kept = {i for i, row in before.items() if after.get(i) == row}
    assert kept == set(before)
    assert result.counts["num_carried_over"] == 20
    # The test questions are frozen, so what is added is training and validation.
    num_added = result.counts["num_rows"] - 20
    assert len(teacher.asked) == 2 * num_added
    assert result.counts["num_test"] == sum(row.split == "test" for row in before.values())


def test_another_recipe_makes_the_rows_anew_but_keeps_the_test_questions(
    publish_corpus, garden, config, scripted
) -> None:
    stand = publish_corpus(garden)
    before = rows_of(stand, stand.synthesize(scripted(gardener), config))
    other = config.model_copy(
        update={"contexts": config.contexts.model_copy(update={"num_distractors": 4})}
    )
    result = stand.synthesize(scripted(gardener), other)
    after = rows_of(stand, result)
    assert {len(row.context) for row in after.values()} == {5}
    tested = {row.question for row in before.values() if row.split == "test"}
    assert tested == {row.question for row in after.values() if row.split == "test"}
    first, second = (
        EvaluationSet.read(stand.ws.artifacts.directory(ref))
        for ref in (stand.ws.artifacts.manifest(result.ref).input_refs["previous"], result.ref)
    )
    assert first.fingerprint == second.fingerprint
    assert second.num_remapped == len(tested)


def test_test_questions_survive_when_documents_are_cut_anew(
    publish_corpus, garden, config, scripted
) -> None:
    """Frozen by document and offset, not by chunk: evaluations stay comparable."""
    stand = publish_corpus(garden)
    first = stand.synthesize(scripted(gardener), config)
    before = rows_of(stand, first)
    halves = []
    for chunk in garden.chunks:
        cut = chunk.text.index("Beside")
        halves += [
            replace(chunk, chunk_id=f"{chunk.chunk_id}-a", text=chunk.text[:cut], end=cut),
            replace(
                chunk, chunk_id=f"{chunk.chunk_id}-b", text=chunk.text[cut:], start=cut, ordinal=1
            ),
        ]
    cut_stand = publish_corpus(Corpus(garden.documents, tuple(halves)))
    second = cut_stand.synthesize(scripted(gardener), config)
    after = rows_of(cut_stand, second)
    tested = {row.question: row for row in before.values() if row.split == "test"}
    again = {row.question: row for row in after.values() if row.split == "test"}
    assert set(again) == set(tested)
    for question, row in again.items():
        assert row.oracle_chunk_id == f"{tested[question].oracle_chunk_id}-a"
        assert [q.text for q in row.quotes] == [q.text for q in tested[question].quotes]
    manifests = [s.ws.artifacts.manifest(r.ref) for s, r in ((stand, first), (cut_stand, second))]
    assert manifests[0].details["evaluation_set"] == manifests[1].details["evaluation_set"]


def test_without_building_on_the_dataset_before_only_the_words_are_free(
    publish_corpus, garden, config, scripted
) -> None:
    stand = publish_corpus(garden)
    stand.synthesize(scripted(gardener), config)
    alone = config.model_copy(
        update={
            "incremental": False,
            "split": config.split.model_copy(update={"keep_evaluation_set": False}),
        }
    )
    teacher = scripted(gardener)
    result = stand.synthesize(teacher, alone)
    assert teacher.asked == []
    assert result.counts["num_carried_over"] == 0
    assert "previous" not in stand.ws.artifacts.manifest(result.ref).inputs


def test_a_dataset_says_what_it_was_asked_about(publish_corpus, garden, config, scripted) -> None:
    stand = publish_corpus(garden)
    result = stand.synthesize(scripted(gardener), config)
    topics = pq.read_table(stand.ws.artifacts.directory(result.ref) / "topics.parquet").to_pylist()
    assert {tuple(topic["chunk_ids"]) for topic in topics} == {
        (chunk.chunk_id,) for chunk in garden.chunks
    }
