"""`raftline export` on a dataset in a real store."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.raft.rows import SPLITS
from pipeline_lib.stage import Workspace
from tests.artifacts.made_artifacts import publish
from tests.raft.made_rows import make_row, write_splits

runner = CliRunner()


@pytest.fixture(autouse=True)
def _artifacts(settings) -> None:
    """A corpus and a dataset of one row per split."""

    ws = Workspace.open(settings=settings)
    rows = [make_row(row_id=split, split=split) for split in SPLITS]
    publish(ws, "corpus", name="owls")
    publish(ws, "dataset", lambda draft: write_splits(draft.directory, rows), name="owls")


def run(*arguments: str):
    return runner.invoke(app, ["export", *arguments])


def test_a_dataset_is_exported_and_its_files_are_counted(tmp_path: Path) -> None:
    result = run("dataset/owls@latest", "--format", "chat", "--to", str(tmp_path / "out"))
    assert result.exit_code == 0
    assert f"{tmp_path / 'out' / 'train.jsonl'}: 1 lines" in result.output.replace("\n", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "dataset_info.json",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    assert '"owls_train"' in (tmp_path / "out" / "dataset_info.json").read_text()


def test_only_datasets_can_be_exported(tmp_path: Path) -> None:
    result = run("corpus/owls@latest", "--to", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "is no dataset" in result.output


def test_what_the_dataset_lacks_is_named(tmp_path: Path) -> None:
    result = run("dataset/owls@latest", "--format", "preference", "--to", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "preferences.share" in result.output
    assert not (tmp_path / "out").exists()
