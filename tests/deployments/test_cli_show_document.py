"""`raftline show --document` on datasets in a real store."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig, SynthesizeConfig
from pipeline_lib.corpus.documents import document_id
from pipeline_lib.corpus.schema import Document
from pipeline_lib.raft.dataset.lineage import LineageWriter
from pipeline_lib.raft.keys import make_row_id
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.stage import ArtifactDraft, Workspace, run_stage
from tests.raft.made_rows import bare_row

runner = CliRunner()
DOCUMENTS = [
    Document(
        document_id=document_id(f"file:///library/{name}.txt"),
        source_uri=f"file:///library/{name}.txt",
        title=name,
        media_type="text/plain",
        text=f"All about {name}.",
        content_sha256=mark * 64,
    )
    for name, mark in (("ash [old]", "a"), ("birch", "b"))
]


def _row(number: int) -> RaftRow:
    ash = DOCUMENTS[0]
    question = f"What of [ash] {number}?"
    return bare_row(
        question,
        row_id=make_row_id(question, ["c1"]),
        document_id=ash.document_id,
        title=ash.title,
        text=ash.text,
        final_answer="all",
    )


@pytest.fixture
def made(settings) -> dict[str, ArtifactRef]:
    """A dataset with 25 rows about ash and none about birch, and a model trained on it."""
    ws = Workspace.open(settings=settings)

    def build_dataset(draft: ArtifactDraft) -> None:
        with LineageWriter(draft.directory, DOCUMENTS) as lineage:
            for number in range(25):
                lineage.write(_row(number))

    def build_model(draft: ArtifactDraft) -> None:
        (draft.directory / "weights").write_text("w")

    common = {"name": "tiny", "stage_version": 1}
    dataset = run_stage(
        ws,
        kind="dataset",
        stage="synthesize",
        config=SynthesizeConfig(),
        inputs={"teacher": "t"},
        build=build_dataset,
        **common,
    ).ref
    model = run_stage(
        ws,
        kind="model",
        stage="finetune",
        config=FinetuneConfig(),
        inputs={"dataset": dataset},
        build=build_model,
        **common,
    ).ref
    return {"dataset": dataset, "model": model}


def test_rows_datasets_and_models_that_saw_a_document_are_shown(made) -> None:
    result = runner.invoke(app, ["show", "--document", "ash [old].txt"])
    assert result.exit_code == 0
    assert result.stdout.startswith("file:///library/ash [old].txt\n")
    head, table = re.split(r"question *\n", result.stdout)
    assert f"dataset/tiny/{made['dataset'].fingerprint[:8]}  text aaaaaaaa…  (oracle 25)" in head
    assert table.count("What of [ash]") == 20
    assert "… 5 more; --json prints all" in table
    assert f"models trained on it: model/tiny/{made['model'].fingerprint[:8]}" in table


def test_a_document_as_json(made) -> None:
    shown = json.loads(runner.invoke(app, ["show", "--document", "ash [old].txt", "--json"]).stdout)
    assert shown["source_uri"] == DOCUMENTS[0].source_uri
    assert shown["models"] == [made["model"].key]
    (dataset,) = shown["datasets"]
    assert dataset["ref"] == made["dataset"].key
    assert dataset["models"] == [made["model"].key]
    assert len(dataset["rows"]) == 25
    assert dataset["rows"][3] == {
        "row_id": _row(3).row_id,
        "split": "train",
        "task": "answer",
        "use": "oracle",
        "chunk_id": "c1",
        "question": "What of [ash] 3?",
        "content_sha256": "a" * 64,
    }


def test_an_unknown_document_is_an_error_that_shows_known_ones(made) -> None:
    result = runner.invoke(app, ["show", "--document", "oak.txt"])
    assert result.exit_code == 1
    assert "oak.txt" in result.stderr
    assert "ash" in result.stderr


def test_an_artifact_and_a_document_at_once_are_refused(made) -> None:
    result = runner.invoke(app, ["show", "dataset/tiny@latest", "--document", "ash.txt"])
    assert result.exit_code == 2
    assert "not both" in result.stderr
