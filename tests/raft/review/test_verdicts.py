"""Verdicts: what they do to rows, which of several holds, and where they are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from pipeline_lib.errors import ArtifactCorruptError, PreconditionFailedError
from pipeline_lib.raft.candidates import Rejection
from pipeline_lib.raft.review.verdicts import Verdict, Verdicts, record_verdicts, verdict_log
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.stage import Workspace

Row = Callable[..., RaftRow]
Make = Callable[..., Verdict]


def test_without_a_verdict_and_with_an_accept_a_row_stays_as_it_is(row: Row, verdict: Make) -> None:
    assert Verdicts().apply(row()) is not None
    assert Verdicts().apply(row()) == row()
    assert Verdicts([verdict(0, "accept")]).apply(row()) == row()


def test_a_rejected_row_carries_the_reviewers_words(row: Row, verdict: Make) -> None:
    verdicts = Verdicts([verdict(0, "reject", comment="wrong animal")])
    assert verdicts.apply(row()) == Rejection("review", "rejected_by_reviewer", "wrong animal")
    assert verdicts.apply(row(1)) == row(1)


def test_an_edit_replaces_question_and_answer_and_keeps_the_row_id(row: Row, verdict: Make) -> None:
    edit = verdict(0, "edit", edited_question="Which food?", edited_answer="crabs and urchins")
    edited = Verdicts([edit]).apply(row())
    assert isinstance(edited, RaftRow)
    assert (edited.row_id, edited.question) == ("row-0", "Which food?")
    assert edited.final_answer == "crabs and urchins"
    assert edited.provenance.question_source == edited.provenance.answer_source == "reviewer"
    assert edited.row_key != row().row_key
    assert edited.reasoning == row().reasoning
    RaftRow.model_validate(edited.model_dump())


def test_what_was_not_edited_keeps_its_source(row: Row, verdict: Make) -> None:
    edited = Verdicts([verdict(0, "edit", edited_answer="urchins")]).apply(row())
    assert isinstance(edited, RaftRow)
    assert edited.provenance.question_source == "teacher"
    assert edited.provenance.answer_source == "reviewer"


def test_applying_twice_is_applying_once(row: Row, verdict: Make) -> None:
    verdicts = Verdicts([verdict(0, "edit", edited_question="Which food?", edited_answer="prey")])
    once = verdicts.apply(row())
    assert isinstance(once, RaftRow)
    assert verdicts.apply(once) == once


def test_an_edited_answer_never_becomes_the_answer_of_a_row_that_refuses(
    row: Row, verdict: Make
) -> None:
    """The edit was made where the oracle was shown; here it is not in the context."""
    refusing = row(target="refuse")
    edit = verdict(0, "edit", edited_question="Which food?", edited_answer="urchins")
    edited = Verdicts([edit]).apply(refusing)
    assert isinstance(edited, RaftRow)
    assert edited.final_answer == refusing.final_answer
    assert edited.question == "Which food?"


def test_a_row_that_was_cut_anew_is_found_by_question_and_document(row: Row, verdict: Make) -> None:
    verdicts = Verdicts([verdict(0, "reject")])
    cut_anew = row(row_id="another", question="what does  otter 0 EAT?")
    assert isinstance(verdicts.apply(cut_anew), Rejection)
    elsewhere = row(row_id="another", source_document_id="another document")
    assert verdicts.apply(elsewhere) == elsewhere


def test_the_rows_own_verdict_comes_before_that_of_its_question(row: Row, verdict: Make) -> None:
    verdicts = Verdicts([verdict(0, "accept"), verdict(0, "reject", row_id="another", minutes=5)])
    assert verdicts.apply(row()) == row()
    assert isinstance(verdicts.apply(row(row_id="another")), Rejection)


def test_of_several_verdicts_the_last_one_given_holds(verdict: Make) -> None:
    log = [verdict(0, "accept"), verdict(0, "reject", minutes=1), verdict(0, "accept", minutes=2)]
    for order in permutations(log):
        assert [each.decision for each in Verdicts(order)] == ["accept"]


def test_a_withdrawn_verdict_no_longer_holds(row: Row, verdict: Make) -> None:
    verdicts = Verdicts([verdict(0, "reject"), verdict(0, "withdrawn", minutes=1)])
    assert len(verdicts) == 0
    assert verdicts.apply(row()) == row()


def test_the_hash_changes_with_what_changes_rows_and_with_nothing_else(verdict: Make) -> None:
    reject = verdict(0, "reject")
    one = Verdicts([reject]).sha256
    assert one != Verdicts().sha256
    assert Verdicts([reject, verdict(1, "accept", comment="fine")]).sha256 == one
    assert Verdicts([verdict(0, "reject", comment="why", reviewer="Ada", minutes=9)]).sha256 == one
    edits = [verdict(0, "edit", edited_answer=text) for text in ("a", "b")]
    assert len({one, *(Verdicts([edit]).sha256 for edit in edits)}) == 3
    both = [reject, verdict(1, "reject")]
    assert Verdicts(both).sha256 == Verdicts(both[::-1]).sha256


def test_verdicts_are_kept_per_pipeline_and_merged(workspace: Workspace, verdict: Make) -> None:
    assert len(Verdicts.load(workspace, "demo")) == 0
    assert record_verdicts(workspace, "demo", [verdict(0, "reject"), verdict(1, "accept")]) == 2
    assert record_verdicts(workspace, "demo", [verdict(2, "reject")]) == 1
    assert {each.row_id for each in Verdicts.load(workspace, "demo")} == {"row-0", "row-1", "row-2"}
    assert len(Verdicts.load(workspace, "docs")) == 0


def test_importing_in_any_order_and_again_gives_the_same(
    workspace: Workspace, verdict: Make
) -> None:
    early, late = verdict(0, "reject"), verdict(0, "accept", minutes=5)
    for name, order in (("a", [early, late]), ("b", [late, early])):
        for each in [*order, *order]:
            record_verdicts(workspace, name, [each])
        assert [each.decision for each in Verdicts.load(workspace, name)] == ["accept"]
        assert verdict_log(workspace, name) == (early, late)


def test_what_holds_already_is_not_new_and_the_history_stays(
    workspace: Workspace, verdict: Make
) -> None:
    record_verdicts(workspace, "demo", [verdict(0, "reject")])
    assert record_verdicts(workspace, "demo", [verdict(0, "reject", minutes=30)]) == 0
    assert record_verdicts(workspace, "demo", [verdict(1, "withdrawn")]) == 0
    assert record_verdicts(workspace, "demo", [verdict(0, "accept", minutes=40)]) == 1
    log = verdict_log(workspace, "demo")
    assert [each.decision for each in log] == ["reject", "accept"]


def test_a_clock_that_is_ahead_does_not_outvote_later_verdicts(
    workspace: Workspace, verdict: Make
) -> None:
    ahead = datetime.now(UTC) + timedelta(days=365)
    record_verdicts(workspace, "demo", [verdict(0, "reject", decided_at=ahead)])
    record_verdicts(workspace, "demo", [verdict(0, "accept", decided_at=datetime.now(UTC))])
    assert [each.decision for each in Verdicts.load(workspace, "demo")] == ["accept"]


def test_writers_at_the_same_time_lose_nothing(workspace: Workspace, verdict: Make) -> None:
    with ThreadPoolExecutor(4) as pool:
        for future in [
            pool.submit(record_verdicts, workspace, "demo", [verdict(number, "reject")])
            for number in range(8)
        ]:
            assert future.result() == 1
    assert len(Verdicts.load(workspace, "demo")) == 8


def test_a_lost_race_is_run_again_on_what_the_other_left(
    workspace: Workspace, verdict: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server with conditional writes answers; the other writer is on another machine."""
    objects = workspace.artifacts.objects
    put, others = objects.put_bytes, [verdict(1, "reject")]

    def contested(key: str, data: bytes, **conditions: Any) -> str:
        if others:
            log = [others.pop().model_dump(mode="json")]
            put(key, json.dumps({"format": 1, "verdicts": log}).encode())
            raise PreconditionFailedError("somebody was faster")
        return put(key, data, **conditions)

    monkeypatch.setattr(objects, "put_bytes", contested)
    assert record_verdicts(workspace, "demo", [verdict(0, "reject")]) == 1
    assert {each.row_id for each in Verdicts.load(workspace, "demo")} == {"row-0", "row-1"}


def test_who_never_wins_a_race_is_told_so(
    workspace: Workspace, verdict: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PreconditionFailedError("somebody was faster")

    monkeypatch.setattr(workspace.artifacts.objects, "put_bytes", refuse)
    with pytest.raises(PreconditionFailedError, match="was changed by others 10 times"):
        record_verdicts(workspace, "demo", [verdict(0, "reject")])


@pytest.mark.parametrize("content", [b"{", b'{"format": 2}', b'{"format": 1, "verdicts": [{}]}'])
def test_a_damaged_log_is_an_error_that_names_it(workspace: Workspace, content: bytes) -> None:
    workspace.artifacts.objects.put_bytes("_state/review/demo/verdicts.json", content)
    with pytest.raises(ArtifactCorruptError, match=r"_state/review/demo/verdicts.json cannot be"):
        Verdicts.load(workspace, "demo")
