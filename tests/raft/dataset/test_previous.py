from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.errors import ArtifactError
from pipeline_lib.raft.dataset.previous import (
    PREVIOUS_INPUT,
    CarriedRows,
    PreviousDataset,
    find_base,
    make_recipe,
)
from pipeline_lib.raft.dataset.splitting import read_splits
from pipeline_lib.raft.rows import SPLITS, Passage, RaftRow, Split

RECIPE = "recipe-1"
NAMES = ("ash", "birch", "cedar", "doum", "elm", "fir")
SPLIT_OF_NAME: dict[str, Split] = dict(
    zip(NAMES, ("train", "train", "train", "validation", "test", "train"), strict=True)
)


def pages(**other: list[str]) -> dict[str, list[str]]:
    """Six documents of three passages each, some of them replaced."""
    texts = {
        name: [
            f"The {name} has {part} that nobody counted." for part in ("roots", "bark", "leaves")
        ]
        for name in NAMES
    }
    return texts | other


def placed(corpus: Corpus) -> dict[str, Split]:
    return {d.document_id: SPLIT_OF_NAME[d.title.casefold()] for d in corpus.documents}


def carry(
    previous: PreviousDataset, corpus: Corpus, recipe: str = RECIPE, **fields: Any
) -> CarriedRows:
    return previous.carry_over(corpus, placed(corpus), recipe, **fields)


@pytest.fixture
def make_rows(books: Any) -> Callable[[Corpus], list[RaftRow]]:
    """A row about each document's roots, beside the bark of the next document."""

    def make(corpus: Corpus) -> list[RaftRow]:
        rows = []
        for name, neighbour in zip(NAMES, [*NAMES[1:], NAMES[0]], strict=True):
            oracle, distractor = books.chunks(corpus, name)[0], books.chunks(corpus, neighbour)[1]
            split = SPLIT_OF_NAME[name]
            rows.append(books.row(corpus, [oracle], [distractor], split=split))
        return rows

    return make


@pytest.fixture
def before(make_previous: Any, books: Any, make_rows: Any) -> PreviousDataset:
    corpus = books.corpus(pages())
    return make_previous(corpus, make_rows(corpus))


def test_in_an_unchanged_corpus_every_row_stays_as_it_is(
    before: PreviousDataset, books: Any, make_rows: Any
) -> None:
    corpus = books.corpus(pages())
    carried = carry(before, corpus)
    rows = [row for split in SPLITS for row in carried.rows(split)]
    assert sorted(rows, key=lambda row: row.row_id) == sorted(
        make_rows(corpus), key=lambda row: row.row_id
    )
    assert carried.num_rows == 6
    assert carried.retired == Counter()
    assert carried.changed_documents == carried.remake == frozenset()


def test_new_documents_change_no_row(before: PreviousDataset, books: Any) -> None:
    corpus = books.corpus(pages())
    larger = books.corpus({**pages(), "gum": ["A gum tree."]})
    carried = before.carry_over(larger, placed(corpus), RECIPE)
    assert carried.num_rows == 6
    assert len(carried.changed_documents) == 1


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("cedar", 0, {"oracle_changed": 1}),
        ("cedar", 1, {"distractor_changed": 1}),
        ("cedar", 2, {}),
    ],
)
def test_only_rows_that_rest_on_the_changed_passage_go(
    before: PreviousDataset, books: Any, name: str, part: int, expected: dict[str, int]
) -> None:
    texts = pages()[name]
    texts[part] = "This was written anew."
    carried = carry(before, books.corpus(pages(**{name: texts})))
    assert carried.retired == expected
    assert carried.num_rows == 6 - sum(expected.values())
    assert len(carried.changed_documents) == 1


def test_what_lost_only_a_distractor_is_to_be_asked_again(
    before: PreviousDataset, books: Any
) -> None:
    texts = pages()["cedar"]
    texts[1] = "This was written anew."
    carried = carry(before, books.corpus(pages(cedar=texts)))
    birch = next(row for row in before.rows("train") if "birch" in row.question)
    assert carried.remake == {birch.row_id}


def test_rows_of_deleted_documents_are_retired(before: PreviousDataset, books: Any) -> None:
    texts = pages()
    del texts["cedar"]
    carried = carry(before, books.corpus(texts))
    assert carried.retired == {"document_deleted": 1, "distractor_changed": 1}


def test_another_recipe_retires_all(before: PreviousDataset, books: Any) -> None:
    carried = carry(before, books.corpus(pages()), recipe="recipe-2")
    assert carried.retired == {"recipe_changed": 6}
    assert list(carried.rows("train")) == []


def test_splits_that_are_not_asked_for_are_left_alone(before: PreviousDataset, books: Any) -> None:
    carried = carry(before, books.corpus(pages()), splits=("train", "validation"))
    assert carried.num_rows == 5
    assert list(carried.rows("test")) == []
    assert carried.retired == Counter()


def test_rows_of_a_document_that_moved_are_retired(before: PreviousDataset, books: Any) -> None:
    """And so are rows with it as a distractor: whose contexts it may be in has changed too."""
    corpus = books.corpus(pages())
    split_of = placed(corpus)
    split_of[books.chunks(corpus, "cedar")[0].document_id] = "test"
    carried = before.carry_over(corpus, split_of, RECIPE)
    assert carried.retired == {"split_changed": 1, "distractor_changed": 1}
    assert len(carried.remake) == 2


def test_a_new_title_counts_as_a_change_as_it_is_part_of_the_prompt(
    before: PreviousDataset, books: Any
) -> None:
    corpus = books.corpus(pages(), {"cedar": "CEDAR"})
    assert carry(before, corpus).retired == {"oracle_changed": 1, "distractor_changed": 1}


def test_a_row_without_its_oracle_in_the_context_goes_when_the_oracle_does(
    make_previous: Any, books: Any
) -> None:
    corpus = books.corpus(pages())
    oracle, other = books.chunks(corpus, "ash")[0], books.chunks(corpus, "birch")[1]
    row = books.row(corpus, [oracle], [other], oracle_present=False)
    previous = make_previous(corpus, [row])
    assert carry(previous, corpus).num_rows == 1
    texts = pages()["ash"]
    texts[0] = "Anew."
    assert carry(previous, books.corpus(pages(ash=texts))).retired == {"oracle_changed": 1}


def test_a_row_with_a_made_up_passage_goes_when_what_it_was_made_from_does(
    make_previous: Any, books: Any
) -> None:
    corpus = books.corpus(pages())
    oracle, source = books.chunks(corpus, "ash")[0], books.chunks(corpus, "birch")[1]
    made_up = Passage(
        chunk_id="made-up-1",
        document_id=source.document_id,
        title="Birch",
        text="Nothing like it.",
        role="distractor",
        origin="adversarial",
        source_chunk_id=source.chunk_id,
    )
    previous = make_previous(corpus, [books.row(corpus, [oracle], [made_up])])
    assert carry(previous, corpus).num_rows == 1
    texts = pages()["birch"]
    texts[1] = "Anew."
    assert carry(previous, books.corpus(pages(birch=texts))).retired == {"distractor_changed": 1}


def test_an_unanswerable_question_goes_with_the_passage_it_was_written_about(
    make_previous: Any, books: Any
) -> None:
    corpus = books.corpus(pages())
    about, other = books.chunks(corpus, "ash")[1], books.chunks(corpus, "ash")[2]
    row = books.row(corpus, [], [about, other])
    previous = make_previous(corpus, [row])
    for part, reason in ((1, "oracle_changed"), (2, "distractor_changed")):
        texts = pages()["ash"]
        texts[part] = "Anew."
        assert carry(previous, books.corpus(pages(ash=texts))).retired == {reason: 1}


def test_what_a_reviewer_edited_is_made_again_for_the_edit_as_it_now_stands(
    make_previous: Any, books: Any
) -> None:
    corpus = books.corpus(pages())
    row = books.row(corpus, [books.chunks(corpus, "ash")[0]], answer_source="reviewer")
    carried = carry(make_previous(corpus, [row]), corpus)
    assert carried.retired == {"reviewed": 1}
    assert carried.remake == {row.row_id}


def test_rows_of_other_tasks_are_not_taken_over_as_they_are_derived_anew(
    make_previous: Any, books: Any
) -> None:
    corpus = books.corpus(pages())
    row = books.row(corpus, [books.chunks(corpus, "ash")[0]], [books.chunks(corpus, "ash")[1]])
    derived = row.model_copy(update={"row_id": "r2", "task": "quotes", "base_row_id": row.row_id})
    carried = carry(make_previous(corpus, [row, derived]), corpus)
    assert list(carried.rows("train")) == [row]
    assert carried.retired == Counter()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 43},
        {"teacher": {"temperature": 0.5}},
        {"contexts": {"num_distractors": 5}},
        {"gates": {"min_quotes": 2}},
        {"questions": {"styles": {"formal": 1}}},
        {"retrieval": {"mode": "dense"}},
    ],
)
def test_what_shapes_rows_is_part_of_the_recipe(change: dict[str, Any]) -> None:
    assert _recipe(SynthesizeConfig(**change)) != _recipe(SynthesizeConfig())


@pytest.mark.parametrize(
    "change",
    [
        {"num_questions": 500},
        {"max_candidates_per_question": 3},
        {"min_rows": 3},
        {"budget": {"max_tokens": 10}},
        {"tasks": {"relevance": 0.5}},
        {"preferences": {"share": 0.5}},
        {"split": {"test_fraction": 0.2}},
        {"teacher": {"concurrency": 3}},
        {"incremental": False},
    ],
)
def test_how_many_rows_there_are_is_not(change: dict[str, Any]) -> None:
    assert _recipe(SynthesizeConfig(**change)) == _recipe(SynthesizeConfig())


def test_prompts_and_teacher_are_part_of_the_recipe() -> None:
    config = SynthesizeConfig()
    recipes = {
        make_recipe(config, prompt_version=version, teacher_model=teacher)
        for version in ("1", "2")
        for teacher in ("a", "b")
    }
    assert len(recipes) == 4


def test_rows_of_the_users_questions_and_of_a_teachers_are_made_by_different_recipes() -> None:
    recipes = {_recipe(SynthesizeConfig(qa_path=path)) for path in ("a.jsonl", "b.jsonl", None)}
    assert len(recipes) == 2


def _recipe(config: SynthesizeConfig) -> str:
    return make_recipe(config, prompt_version="1", teacher_model="t")


def test_splits_are_known_as_long_as_seed_and_shares_are_the_same(before: PreviousDataset) -> None:
    splits = read_splits(before.directory)
    assert before.known_splits(SynthesizeConfig(seed=1, num_questions=500)) == splits
    tests = {name: split for name, split in splits.items() if split == "test"}
    assert tests
    for changed in ({"seed": 2}, {"seed": 1, "split": {"test_fraction": 0.5}}):
        config = SynthesizeConfig(**changed)  # type: ignore[arg-type]
        assert before.known_splits(config) == tests
    forgetful = SynthesizeConfig(seed=2, split={"keep_evaluation_set": False})  # type: ignore[arg-type]
    assert before.known_splits(forgetful) == {}


def test_contexts_are_drawn_alike_by_equal_configurations(before: PreviousDataset) -> None:
    assert before.draws_contexts_as(SynthesizeConfig(seed=2, num_questions=500))
    assert not before.draws_contexts_as(SynthesizeConfig(contexts={"num_distractors": 5}))  # type: ignore[arg-type]


def test_a_dataset_of_an_older_format_is_not_built_on(
    library: Any, books: Any, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = library.publish_corpus(books.corpus(pages()))
    old = library.publish_bare("dataset", {"corpus": corpus})
    with pytest.raises(ArtifactError, match="how they were split"):
        PreviousDataset.open(library.ws.artifacts, old)
    assert PreviousDataset.find(library.ws.artifacts, old) is None
    assert "all is made anew" in caplog.text
    assert PreviousDataset.find(library.ws.artifacts, None) is None


def test_a_dataset_is_fetched_with_its_corpus(library: Any, books: Any, make_rows: Any) -> None:
    corpus = books.corpus(pages())
    ref = library.publish_dataset(corpus, make_rows(corpus))
    previous = PreviousDataset.find(library.ws.artifacts, ref)
    assert previous is not None
    assert carry(previous, corpus).num_rows == 6


def test_a_run_builds_on_the_latest_dataset_unless_it_repeats_it(library: Any, books: Any) -> None:
    """First on nothing; then its repetition finds it; then a changed corpus builds on it, and the
    repetition of that finds that."""
    artifacts = library.ws.artifacts
    corpora = [books.corpus(pages()), books.corpus(pages(elm=["Another."]))]

    def made_on(corpus: Corpus) -> Callable[[ArtifactRef | None], ArtifactRef]:
        def made(base: ArtifactRef | None) -> ArtifactRef:
            return library.dataset_ref(corpus, {PREVIOUS_INPUT: base} if base else {})

        return made

    def run(corpus: Corpus) -> tuple[ArtifactRef, ArtifactRef | None]:
        base = find_base(artifacts, "demo", made_on(corpus))
        inputs = {PREVIOUS_INPUT: base} if base else {}
        return library.publish_dataset(corpus, [], inputs=inputs), base

    first, on = run(corpora[0])
    assert on is None
    assert run(corpora[0]) == (first, None)
    second, on = run(corpora[1])
    assert on == first
    assert second != first
    assert run(corpora[1]) == (second, first)
    artifacts.invalidate(second)
    assert find_base(artifacts, "demo", made_on(corpora[1])) is None
