"""`raftline review`: out to people, and back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.raft.rows import SPLITS, RaftRow
from pipeline_lib.stage import StageResult, Workspace
from tests.artifacts.made_artifacts import publish
from tests.raft.made_rows import bare_row, write_splits

runner = CliRunner()


def _row(number: int) -> RaftRow:
    return bare_row(
        f"What does otter {number} eat?",
        row_id=f"row-{number}",
        split=SPLITS[number % 3],
        chunk_id=f"chunk-{number}",
        document_id=f"doc-{number}",
    )


@pytest.fixture
def dataset(workspace: Workspace) -> StageResult:
    rows = [_row(number) for number in range(6)]
    return publish(
        workspace,
        "dataset",
        lambda draft: write_splits(draft.directory, rows),
        name="docs",
        config=SynthesizeConfig(),
    )


def test_a_review_goes_out_and_comes_back(dataset: StageResult, tmp_path: Path) -> None:
    folder = tmp_path / "review"
    arguments = ["review", "export", "--name", "docs", "--rows", "4", "--to", str(folder)]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert f"4 of 6 rows of {dataset.ref}" in result.stdout
    assert (folder / "review.html").as_uri() in result.stdout
    assert "raftline review import verdicts.json --name docs" in result.stdout

    table = folder / "review.csv"
    with table.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[0]["verdict"], rows[1]["edited_answer"], rows[2]["verdict"] = "no", "urchins", "yes"
    rows[3] |= {"verdict": "no", "row_id": "gone", "question": "Who?"}
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    result = runner.invoke(app, ["review", "import", str(table), "--name", "docs"])
    assert result.exit_code == 0, result.stderr
    assert "1 accepted, 1 edited, 1 rejected, 0 withdrawn, 1 unknown, 0 undecided" in result.stdout
    assert "3 are new" in result.stdout
    assert "line 5: Who?" in result.stdout
    assert "They take effect when the dataset is made again." in result.stdout

    result = runner.invoke(app, ["review", "list", "--name", "docs", "--decision", "edit"])
    assert rows[1]["question"] in result.stdout
    assert "urchins" in result.stdout
    # What was reviewed is not asked for again.
    result = runner.invoke(app, arguments)
    assert "3 of 3 rows" in result.stdout
    assert "(3 have a verdict)" in result.stdout


def test_json_for_programs(dataset: StageResult, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("row_id,verdict\nrow-0,accept\nrow-1,\nrow-2,perhaps\n")
    result = runner.invoke(app, ["review", "import", str(table), "--name", "docs", "--json"])
    [report] = json.loads(result.stdout).values()
    assert report == {
        "dataset": str(dataset.ref),
        "accepted": 1,
        "edited": 0,
        "rejected": 0,
        "withdrawn": 0,
        "undecided": 1,
        "new": 1,
        "unknown": [],
        "problems": ["line 4: 'perhaps' is no verdict"],
    }
    result = runner.invoke(app, ["review", "list", "--name", "docs", "--json"])
    [verdict] = json.loads(result.stdout)
    assert (verdict["row_id"], verdict["decision"]) == ("row-0", "accept")


def test_rows_can_be_chosen_by_split_and_kind(dataset: StageResult, tmp_path: Path) -> None:
    arguments = ["review", "export", "--name", "docs", "--to", str(tmp_path / "out")]
    result = runner.invoke(app, [*arguments, "--split", "test", "--kind", "factual"])
    assert "2 of 2 rows" in result.stdout
    result = runner.invoke(app, [*arguments, "--kind", "how_why"])
    assert result.exit_code == 1
    assert "has no row to review" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--to", "x", "--name", "nobody"], "There is no dataset 'nobody'"),
        (["export", "--to", "x", "--dataset", "model/a@latest"], "There is no model 'a'"),
        (["import", "missing.json"], "missing.json cannot be read"),
    ],
)
def test_what_is_not_there_is_named(
    workspace: Workspace, arguments: list[str], message: str
) -> None:
    result = runner.invoke(app, ["review", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr


def test_nothing_to_list_says_how_to_begin(workspace: Workspace) -> None:
    result = runner.invoke(app, ["review", "list"])
    assert "raftline review export" in result.stdout


@pytest.mark.parametrize("command", ["export", "import", "list"])
def test_help_shows_an_example(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = runner.invoke(app, ["review", command, "--help"])
    assert f"Example: raftline review {command}" in result.stdout
