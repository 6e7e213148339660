"""What reviewers hand in, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.errors import ArtifactNotFoundError, ConfigError, InputError
from pipeline_lib.raft.review.importing import import_verdicts
from pipeline_lib.raft.review.verdicts import Verdict, Verdicts, record_verdicts
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.stage import Workspace

Row = Callable[..., RaftRow]
Publish = Callable[..., ArtifactRef]
REFUSAL = "The documents do not contain the answer."


@pytest.fixture
def dataset(row: Row, publish_rows: Publish) -> ArtifactRef:
    return publish_rows([row(0), row(1), row(2, target="refuse"), row(3)])


def page_file(path: Path, dataset: object, *verdicts: dict[str, Any], **fields: Any) -> Path:
    """As the review page downloads it."""
    times = {"decided_at": "2026-03-01T12:00:00.000Z"}
    content = {
        "format": "raftline-review-1",
        "dataset": str(dataset),
        "reviewer": "Ada",
        "verdicts": [times | each for each in verdicts],
    }
    path.write_text(json.dumps(content | fields))
    return path


def decided(number: int, decision: str, **changes: Any) -> dict[str, Any]:
    question = f"What does otter {number} eat?"
    return {"row_id": f"row-{number}", "question": question, "decision": decision} | changes


def test_a_file_is_counted_by_what_was_decided_and_comes_into_force(
    workspace: Workspace, dataset: ArtifactRef, tmp_path: Path
) -> None:
    file = page_file(
        tmp_path / "verdicts.json",
        dataset,
        decided(0, "reject", comment="wrong animal"),
        decided(1, "edit", edited_answer="  crabs and urchins "),
        decided(3, "accept"),
        {"row_id": "gone", "question": "Who?", "decision": "reject"},
    )
    report = import_verdicts(workspace, "demo", file)
    assert report.dataset == dataset
    assert report.decisions == {"reject": 1, "edit": 1, "accept": 1}
    assert (report.num_new, report.num_undecided) == (3, 0)
    assert report.unknown == ("verdict 4: Who?",)
    held = {each.row_id: each for each in Verdicts.load(workspace, "demo")}
    assert (held["row-0"].comment, held["row-0"].reviewer) == ("wrong animal", "Ada")
    assert held["row-0"].document_id == "doc-0"
    assert held["row-1"].edited_answer == "crabs and urchins"
    assert import_verdicts(workspace, "demo", file).num_new == 0


def test_a_table_with_empty_verdicts_and_an_edit_in_place_of_one(
    workspace: Workspace, dataset: ArtifactRef, tmp_path: Path
) -> None:
    path = tmp_path / "review.csv"
    path.write_text(
        "row_id,verdict,question,edited_question,edited_answer\n"
        "row-0,,What does otter 0 eat?,,\n"
        "row-1,,What does otter 1 eat?,Which food does otter 1 like?,\n"
        "1E+21,accept,What does otter 3 eat?,,\n"
    )
    report = import_verdicts(workspace, "demo", path, reviewer="Ben")
    assert report.num_undecided == 1
    assert report.decisions == {"edit": 1, "accept": 1}
    held = {each.row_id: each for each in Verdicts.load(workspace, "demo")}
    # The spreadsheet took row-3's id for a number: its question names it.
    assert held.keys() == {"row-1", "row-3"}
    assert held["row-1"].edited_question == "Which food does otter 1 like?"
    assert held["row-1"].question == "What does otter 1 eat?"
    assert held["row-1"].reviewer == "Ben"


def test_an_edit_that_changes_nothing_is_an_accept(
    workspace: Workspace, dataset: ArtifactRef, tmp_path: Path
) -> None:
    same = decided(0, "edit", edited_answer="crabs", edited_question="What does  otter 0 eat?")
    report = import_verdicts(workspace, "demo", page_file(tmp_path / "v.json", dataset, same))
    assert report.decisions == {"accept": 1}


@pytest.mark.parametrize(
    ("number", "answer", "reason"),
    [
        (2, "crabs", "this row teaches to refuse"),
        (0, REFUSAL, "cannot be edited into a refusal"),
        (0, "x" * 20_001, "edited_answer: String should have at most 20000 characters"),
    ],
)
def test_an_edit_that_would_spoil_its_row_is_left_out_with_a_reason(
    workspace: Workspace,
    dataset: ArtifactRef,
    tmp_path: Path,
    number: int,
    answer: str,
    reason: str,
) -> None:
    entries = [decided(number, "edit", edited_answer=answer), decided(3, "reject")]
    report = import_verdicts(workspace, "demo", page_file(tmp_path / "v.json", dataset, *entries))
    [problem] = report.problems
    assert problem.startswith("verdict 1: ")
    assert reason in problem
    assert report.decisions == {"reject": 1}


def test_accepting_a_row_that_shows_an_earlier_edit_keeps_the_edit(
    workspace: Workspace,
    row: Row,
    verdict: Callable[..., Verdict],
    publish_rows: Publish,
    tmp_path: Path,
) -> None:
    before = verdict(0, "edit", edited_question="Which food?", edited_answer="prey")
    record_verdicts(workspace, "demo", [before])
    edited = Verdicts([before]).apply(row(0))
    dataset = publish_rows([edited])
    entry = decided(0, "accept", question="Which food?")
    import_verdicts(workspace, "demo", page_file(tmp_path / "v.json", dataset, entry))
    [held] = Verdicts.load(workspace, "demo")
    assert (held.decision, held.question) == ("edit", "What does otter 0 eat?")
    assert (held.edited_question, held.edited_answer) == ("Which food?", "prey")
    # And a further edit of one of them leaves the other.
    entry |= {"decision": "edit", "edited_answer": "fish", "decided_at": "2026-03-02T00:00:00Z"}
    import_verdicts(workspace, "demo", page_file(tmp_path / "v.json", dataset, entry))
    [held] = Verdicts.load(workspace, "demo")
    assert (held.edited_question, held.edited_answer) == ("Which food?", "fish")


def test_a_rejected_row_that_no_dataset_holds_any_more_can_be_decided_anew(
    workspace: Workspace,
    dataset: ArtifactRef,
    verdict: Callable[..., Verdict],
    tmp_path: Path,
) -> None:
    record_verdicts(workspace, "demo", [verdict(9, "reject")])
    file = page_file(tmp_path / "v.json", dataset, decided(9, "withdrawn"))
    # Given before the rejection, it does not undo it; given later, it does.
    later = json.loads(file.read_text())
    later["verdicts"][0]["decided_at"] = "2026-03-05T12:00:00Z"
    file.write_text(json.dumps(later))
    assert import_verdicts(workspace, "demo", file).decisions == {"withdrawn": 1}
    assert len(Verdicts.load(workspace, "demo")) == 0


def test_a_question_that_two_rows_ask_names_neither(
    workspace: Workspace, row: Row, publish_rows: Publish, tmp_path: Path
) -> None:
    dataset = publish_rows([row(0), row(1, question=row(0).question)])
    entry = decided(0, "reject", row_id="mangled")
    report = import_verdicts(workspace, "demo", page_file(tmp_path / "v.json", dataset, entry))
    assert report.unknown == ("verdict 1: What does otter 0 eat?",)


def test_without_its_dataset_a_file_is_matched_with_the_latest(
    workspace: Workspace, dataset: ArtifactRef, tmp_path: Path
) -> None:
    file = page_file(tmp_path / "v.json", f"dataset/demo/{'0' * 32}", decided(0, "reject"))
    assert import_verdicts(workspace, "demo", file).dataset == dataset


def test_a_review_of_another_pipeline_is_refused(
    workspace: Workspace, dataset: ArtifactRef, tmp_path: Path
) -> None:
    file = page_file(tmp_path / "v.json", dataset, decided(0, "reject"))
    with pytest.raises(ConfigError, match="is a review of dataset/demo") as error:
        import_verdicts(workspace, "docs", file)
    assert "--name demo" in str(error.value)
    with pytest.raises(ArtifactNotFoundError):
        import_verdicts(workspace, "docs", page_file(tmp_path / "v.json", "", decided(0, "reject")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "is no file of verdicts"),
        ('{"format": "other"}', "is no file of verdicts: format"),
        (
            '{"format": "raftline-review-1", "dataset": "", "verdicts": [{"row_id": "a"}]}',
            "verdicts.0.question: Field required",
        ),
    ],
)
def test_a_file_that_is_no_review_is_refused_with_the_place(
    workspace: Workspace, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "verdicts.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        import_verdicts(workspace, "demo", path)


def test_a_file_that_names_no_dataset_as_its_dataset_is_refused(
    workspace: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="names 'nonsense' as its dataset"):
        import_verdicts(workspace, "demo", page_file(tmp_path / "v.json", "nonsense"))
