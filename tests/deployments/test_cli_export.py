"""`raftline export` on a dataset in a real store."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.config import IngestConfig, SynthesizeConfig
from pipeline_lib.raft.rows import SPLITS, split_file, write_rows
from pipeline_lib.stage import ArtifactDraft, Workspace, run_stage
from tests.raft.made_rows import make_row

runner = CliRunner()


@pytest.fixture(autouse=True)
def _artifacts(settings) -> None:
    """A corpus and a dataset of one row per split."""

    def write(draft: ArtifactDraft) -> None:
        for split in SPLITS:
            write_rows(draft.directory / split_file(split), [make_row(row_id=split, split=split)])

    ws = Workspace.open(settings=settings)
    run_stage(
        ws,
        kind="corpus",
        name="owls",
        stage="ingest",
        stage_version=1,
        config=IngestConfig(),
        inputs={},
        build=lambda draft: None,
    )
    run_stage(
        ws,
        kind="dataset",
        name="owls",
        stage="synthesize",
        stage_version=1,
        config=SynthesizeConfig(),
        inputs={},
        build=write,
    )


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
