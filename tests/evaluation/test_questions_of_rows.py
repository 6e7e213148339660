"""Which rows of a dataset are asked, and what counts as found where several passages answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline_lib.config.contexts import TaskConfig
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.arms import Arm, ArmOutput
from pipeline_lib.evaluation.questions import Question, make_records, select_rows
from pipeline_lib.evaluation.records import QuestionRecord
from pipeline_lib.generation.base import Completion, Score
from pipeline_lib.raft.derived.tasks import derive_task_rows
from pipeline_lib.raft.rendering import render_target
from pipeline_lib.raft.rows import RaftRow, split_file, write_rows
from pipeline_lib.retrieval.search import Hit
from tests.raft.made_rows import TEXTS, drawing, make_row, passage, refusing_row

ARM = Arm("base", "base", Path(), "base")


def unanswerable() -> RaftRow:
    return refusing_row(
        row_id="u", kind="unanswerable", oracle_chunk_ids=(), oracle_document_ids=()
    )


def two_oracles() -> RaftRow:
    return make_row(
        context=(
            passage("bat"),
            passage("owl"),
            passage("heron", role="oracle", origin="oracle"),
        ),
        oracle_chunk_ids=("owl", "heron"),
        oracle_document_ids=("d-owl", "d-heron"),
    )


def hit(rank: int, *names: str) -> Hit:
    """A passage of one chunk, or of several that it was expanded by."""
    text = " ".join(TEXTS[name] for name in names)
    return Hit(
        chunk_id=names[0],
        document_id=f"d-{names[0]}",
        title="",
        source_uri="",
        text=text,
        start=0,
        end=len(text),
        rank=rank,
        score=1 / rank,
        covered_ids=names if len(names) > 1 else (),
    )


def record(row: RaftRow, hits: Sequence[Hit], text: str, context_size: int = 3) -> QuestionRecord:
    """What a record says when a model writes `text`."""
    output = ArmOutput(Completion(text, 1, 1, "stop"), Score(1.0, 1))
    question = Question(row, tuple(hits), context_size)
    [made] = make_records([question], {ARM: {row.row_id: output}}, [1, 2, 3])
    return made


def test_only_questions_that_the_corpus_answers_are_asked_and_the_rest_is_counted(
    tmp_path: Path,
) -> None:
    base = make_row(row_id="a")
    everything = TaskConfig(relevance=1, ranking=1, quotes=1, refusal=1, closed_book=1)
    derived = derive_task_rows(base, everything, seed=7, one_more=drawing("stork"))
    rows = [unanswerable(), *derived, make_row(row_id="c"), make_row(row_id="b"), base]
    write_rows(tmp_path / split_file("test"), rows)
    selected, left_out = select_rows(tmp_path, "test", 2)
    assert [row.row_id for row in selected] == ["a", "b"]
    assert left_out == {"unanswerable": 1, "other_task": 5, "beyond_max_questions": 1}


def test_a_split_without_answerable_questions_cannot_be_evaluated_on(tmp_path: Path) -> None:
    write_rows(tmp_path / split_file("test"), [unanswerable()])
    with pytest.raises(InputError, match="no rows to evaluate on"):
        select_rows(tmp_path, "test", 10)


def test_the_oracle_is_in_the_context_only_when_every_oracle_is() -> None:
    both = [hit(1, "owl"), hit(2, "bat"), hit(3, "heron")]
    assert Question(two_oracles(), tuple(both), 3).is_oracle_in_context
    assert not Question(two_oracles(), tuple(both), 2).is_oracle_in_context
    assert Question(two_oracles(), (hit(1, "owl", "heron"),), 1).is_oracle_in_context


def test_recall_counts_every_oracle() -> None:
    found = record(two_oracles(), [hit(1, "owl"), hit(2, "bat"), hit(3, "heron")], "")
    assert found.retrieval["recall@1"] == 0.5
    assert found.retrieval["recall@3"] == 1.0
    assert [each.is_oracle for each in found.passages] == [True, False, True]


def test_a_passage_that_was_expanded_counts_as_the_oracles_in_it() -> None:
    found = record(two_oracles(), [hit(1, "bat"), hit(2, "stork", "owl", "heron")], "")
    assert found.retrieved_chunk_ids == ("bat", "owl", "heron")


def test_a_quote_of_any_oracle_cites_the_oracle() -> None:
    hits = [hit(1, "owl"), hit(2, "bat"), hit(3, "heron")]
    second = '<quote doc="3">It catches fish with its long bill.</quote><answer>x</answer>'
    neither = '<quote doc="2">Bats hunt moths at night by echo.</quote><answer>x</answer>'
    assert record(two_oracles(), hits, second).answers[0].metrics["oracle_citation_rate"] == 1.0
    assert record(two_oracles(), hits, neither).answers[0].metrics["oracle_citation_rate"] == 0.0
    own = render_target(make_row("owl"))
    assert record(make_row(), hits, own).answers[0].metrics["oracle_citation_rate"] == 1.0
