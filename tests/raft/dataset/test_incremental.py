"""A dataset on top of another: what changed is made anew, all else stays and costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.raft.dataset.evaluation_set import EvaluationSet
from pipeline_lib.raft.rows import SPLITS, RaftRow, read_rows, split_file
from pipeline_lib.raft.stage import synthesize
from pipeline_lib.stage import StageResult

NUM_DOCUMENTS = 50
_SYLLABLES = "ba do fe gi ku la mo ne pi ru".split()
CONFIG = SynthesizeConfig(
    num_questions=30,
    min_rows=3,
    seed=3,
    contexts={"num_distractors": 2, "distractors": {"random": 1}},  # type: ignore[arg-type]
)


def animal_text(number: int, *, edited: bool = False) -> str:
    """Two facts about an animal that no other text names, in words that the teacher understands."""
    animal = f"{_SYLLABLES[number // 10]}{_SYLLABLES[number % 10]}x"
    food = f"{_SYLLABLES[number % 10]}{_SYLLABLES[number // 10]}nuts"
    where = "mountain lake" if edited else "river"
    return (
        f"If the {animal} gets hungry at dusk, it quietly collects {food} near the {where}.\n"
        f"A {animal} is a shy creature that sleeps in {food} leaves during the {number + 10} "
        "weeks of winter."
    )


class Pipeline:
    """Synthesizes about its texts, on top of what it made before."""

    def __init__(self, publish: Callable[[Corpus], Any], books: Any, teacher: Any) -> None:
        self._publish = publish
        self._books = books
        self._teacher = teacher
        self.texts = {f"page-{n:02}": [animal_text(n)] for n in range(NUM_DOCUMENTS)}

    def run(self, config: SynthesizeConfig = CONFIG) -> Run:
        stand = self._publish(self._books.corpus(self.texts))
        num_asked = len(self._teacher.asked)
        made = synthesize(
            stand.ws,
            "demo",
            config,
            stand.corpus_ref,
            stand.index_ref,
            self._teacher,
            searcher=stand.searcher,
        )
        folder = stand.ws.artifacts.directory(made.ref)
        return Run(
            made,
            {row.row_id: row for split in SPLITS for row in read_rows(folder / split_file(split))},
            EvaluationSet.read(folder),
            [prompt.text or "" for prompt in self._teacher.asked[num_asked:]],
        )


@dataclass(frozen=True)
class Run:
    result: StageResult
    rows: dict[str, RaftRow]
    evaluation_set: EvaluationSet
    prompts: list[str]
    """What the teacher was asked in it."""


@pytest.fixture
def pipeline(publish_corpus: Callable[[Corpus], Any], books: Any, teacher: Any) -> Pipeline:
    return Pipeline(publish_corpus, books, teacher)


def page_of(row: RaftRow) -> str:
    """The page that a row is about, by its oracle's id."""
    return row.oracle_chunk_id[: len("page-00")]


def rests_on(row: RaftRow, page: str) -> bool:
    names = {passage.chunk_id for passage in row.context} | set(row.oracle_chunk_ids)
    return any(name.startswith(page) for name in names)


def trained_page(run: Run) -> str:
    """A page with a training row."""
    return next(page_of(row) for row in run.rows.values() if row.split == "train")


def test_one_edited_document_of_fifty(pipeline: Pipeline) -> None:
    """Rows that do not rest on it are the same bytes, and the teacher is asked about it alone.

    But for the rows that a distractor cost: their questions are asked again, and answered from
    what is kept.
    """
    before = pipeline.run()
    page = trained_page(before)
    pipeline.texts[page] = [animal_text(int(page[-2:]), edited=True)]
    after = pipeline.run()

    standing = {name: row for name, row in before.rows.items() if not rests_on(row, page)}
    assert standing.items() <= after.rows.items()
    assert after.result.counts["num_carried_over"] == len(standing) < len(before.rows)
    assert not any(
        row in before.rows.values() for row in after.rows.values() if rests_on(row, page)
    )

    assert any("mountain lake" in prompt for prompt in after.prompts)
    assert len(after.prompts) <= len(before.prompts) / 10
    assert after.evaluation_set.fingerprint == before.evaluation_set.fingerprint


def test_rows_of_a_deleted_document_are_retired(pipeline: Pipeline) -> None:
    before = pipeline.run()
    page = trained_page(before)
    del pipeline.texts[page]
    after = pipeline.run()
    assert not any(rests_on(row, page) for row in after.rows.values())
    assert after.result.dropped["retired.document_deleted"] == sum(
        page_of(row) == page for row in before.rows.values()
    )
    assert len(after.rows) >= len(before.rows) - 1


def test_nothing_changed_costs_nothing(pipeline: Pipeline) -> None:
    before, after = pipeline.run(), pipeline.run()
    assert after.result.reused
    assert after.result.ref == before.result.ref
    assert after.prompts == []


def test_the_test_questions_survive_when_every_document_is_cut_anew(pipeline: Pipeline) -> None:
    """Each page was one passage, and is two now."""
    before = pipeline.run()
    pipeline.texts = {page: text.split("\n") for page, (text,) in pipeline.texts.items()}
    after = pipeline.run()
    questions = [
        {row.question for row in run.rows.values() if row.split == "test"}
        for run in (before, after)
    ]
    assert questions[0] == questions[1] != set()
    assert after.evaluation_set.fingerprint == before.evaluation_set.fingerprint
    assert after.evaluation_set.num_remapped == len(questions[0])
    for row in after.rows.values():
        assert {p.text.count("\n") for p in row.context} == {0}
