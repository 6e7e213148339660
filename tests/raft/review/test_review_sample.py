"""Which rows are drawn for review, and what is shown of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.errors import ArtifactNotFoundError, InputError
from pipeline_lib.raft.review.sample import draw_sample
from pipeline_lib.raft.review.verdicts import Verdict, record_verdicts
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.stage import Workspace

Row = Callable[..., RaftRow]
Publish = Callable[..., ArtifactRef]


def _ids(ws: Workspace, ref: ArtifactRef, **options: Any) -> list[str]:
    return [each.row.row_id for each in draw_sample(ws, ref, **options).rows]


def test_the_same_dataset_gives_the_same_rows_and_a_smaller_sample_begins_the_larger(
    workspace: Workspace, row: Row, publish_rows: Publish
) -> None:
    ref = publish_rows([row(number) for number in range(12)])
    sample = draw_sample(workspace, ref, num_rows=6)
    drawn = [each.row.row_id for each in sample.rows]
    assert (len(drawn), sample.num_eligible, sample.num_reviewed) == (6, 12, 0)
    assert _ids(workspace, ref, num_rows=6) == drawn
    assert _ids(workspace, ref, num_rows=3) == drawn[:3]
    assert sorted(_ids(workspace, ref, num_rows=99)) == sorted(f"row-{n}" for n in range(12))


def test_other_rows_coming_and_going_do_not_disturb_the_order(
    workspace: Workspace, row: Row, publish_rows: Publish
) -> None:
    all_rows = publish_rows([row(number) for number in range(12)])
    fewer = publish_rows([row(number) for number in range(8)])
    kept = {f"row-{number}" for number in range(8)}
    before = [each for each in _ids(workspace, all_rows, num_rows=12) if each in kept]
    assert _ids(workspace, fewer, num_rows=12) == before


def test_only_answer_rows_of_the_wanted_splits_and_kinds_are_drawn(
    workspace: Workspace, row: Row, publish_rows: Publish
) -> None:
    other_task = row(6, task="quotes", base_row_id="row-0")
    ref = publish_rows([*(row(n) for n in range(5)), row(5, kind="how_why"), other_task])
    assert len(_ids(workspace, ref, num_rows=99)) == 6
    assert sorted(_ids(workspace, ref, num_rows=99, splits=["train"])) == ["row-0", "row-3"]
    assert _ids(workspace, ref, num_rows=99, kinds=["how_why"]) == ["row-5"]


def test_reviewed_rows_are_drawn_again_only_when_asked_for(
    workspace: Workspace, row: Row, verdict: Callable[..., Verdict], publish_rows: Publish
) -> None:
    ref = publish_rows([row(number) for number in range(3)])
    record_verdicts(workspace, "demo", [verdict(0, "reject"), verdict(1, "accept")])
    sample = draw_sample(workspace, ref, num_rows=9)
    assert [each.row.row_id for each in sample.rows] == ["row-2"]
    assert (sample.num_eligible, sample.num_reviewed) == (1, 2)
    again = draw_sample(workspace, ref, num_rows=9, with_reviewed=True)
    decisions = {each.row.row_id: each.verdict and each.verdict.decision for each in again.rows}
    assert decisions == {"row-0": "reject", "row-1": "accept", "row-2": None}


def test_where_nothing_is_left_to_review_it_says_so(
    workspace: Workspace, row: Row, verdict: Callable[..., Verdict], publish_rows: Publish
) -> None:
    ref = publish_rows([row()])
    record_verdicts(workspace, "demo", [verdict()])
    with pytest.raises(InputError, match="1 have a verdict already") as error:
        draw_sample(workspace, ref, num_rows=9)
    assert "--reviewed" in str(error.value)


def test_a_reviewer_sees_the_oracle_first_also_where_the_row_leaves_it_out(
    workspace: Workspace, row: Row, publish_rows: Publish
) -> None:
    ref = publish_rows([row(0), row(1, target="refuse")])
    shown = {each.row.row_id: each for each in draw_sample(workspace, ref, num_rows=2).rows}
    there, left_out = shown["row-0"].passages[0], shown["row-1"].passages[0]
    assert (there.is_oracle, there.number, there.chunk_id) == (True, 2, "chunk-0")
    assert (left_out.is_oracle, left_out.number) == (True, None)
    assert left_out.text == "Otter 1 eats crabs. It sleeps on its back."
    assert left_out.title == "Otters 1"
    assert there.source_uri == "file:///otters/0.txt"
    assert [passage.number for passage in shown["row-1"].passages] == [None, 1]


def test_without_the_corpus_rows_can_be_reviewed_all_the_same(
    workspace: Workspace, row: Row, publish_rows: Publish
) -> None:
    ref = publish_rows([row(0, target="refuse")])
    workspace.artifacts.invalidate(workspace.artifacts.manifest(ref).input_refs["corpus"])
    [shown] = draw_sample(workspace, ref, num_rows=1).rows
    assert [passage.chunk_id for passage in shown.passages] == ["other"]


def test_a_dataset_that_does_not_exist_is_an_error(workspace: Workspace) -> None:
    ref = ArtifactRef(kind="dataset", name="demo", fingerprint="0" * 32)
    with pytest.raises(ArtifactNotFoundError):
        draw_sample(workspace, ref, num_rows=1)
