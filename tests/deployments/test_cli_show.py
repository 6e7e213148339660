"""`raftline show` on artifacts in a real store."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IndexConfig, IngestConfig, SynthesizeConfig
from pipeline_lib.stage import ArtifactDraft, Workspace, run_stage

runner = CliRunner()


def _fill(draft: ArtifactDraft) -> None:
    (draft.directory / "data.txt").write_text("content")
    draft.counts.update(num_documents=79, num_chunks=1234)
    draft.dropped.update({"empty after cleaning": 2})
    draft.metrics["recall@5"] = 0.8125


@pytest.fixture
def made(settings) -> dict[str, ArtifactRef]:
    """A corpus, an index of it, a dataset of both."""
    ws = Workspace.open(settings=settings)
    common = {"name": "tiny", "stage_version": 1, "build": _fill}
    corpus = run_stage(
        ws, kind="corpus", stage="ingest", config=IngestConfig(), inputs={"files": "abc"}, **common
    ).ref
    index = run_stage(
        ws, kind="index", stage="index", config=IndexConfig(), inputs={"corpus": corpus}, **common
    ).ref
    dataset = run_stage(
        ws,
        kind="dataset",
        stage="synthesize",
        config=SynthesizeConfig(),
        inputs={"corpus": corpus, "index": index},
        seed=42,
        **common,
    ).ref
    return {"corpus": corpus, "index": index, "dataset": dataset}


def test_an_empty_store_says_how_to_fill_it(settings) -> None:
    Workspace.open(settings=settings)
    result = runner.invoke(app, ["show"])
    assert result.exit_code == 0
    assert "raftline demo" in result.stdout


def test_the_list_names_every_artifact_with_counts_and_aliases(made) -> None:
    result = runner.invoke(app, ["show"])
    assert result.exit_code == 0
    for kind, ref in made.items():
        (line,) = [line for line in result.stdout.splitlines() if ref.fingerprint[:8] in line][:1]
        for text in (kind, "tiny", "documents 79", "chunks 1,234", "latest"):
            assert text in line


def test_the_list_as_json(made) -> None:
    listed = json.loads(runner.invoke(app, ["show", "--json"]).stdout)
    assert [each["ref"] for each in listed] == [ref.key for ref in made.values()]
    assert listed[0]["aliases"] == ["latest"]
    assert listed[0]["counts"] == {"num_documents": 79, "num_chunks": 1234}


@pytest.mark.parametrize("form", ["index/tiny@latest", "index/tiny/{mark}", "index/tiny/{start}"])
def test_one_artifact_by_alias_fingerprint_or_its_first_digits(made, form: str) -> None:
    ref = made["index"]
    text = form.format(mark=ref.fingerprint, start=ref.fingerprint[:8])
    result = runner.invoke(app, ["show", text])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{ref.key}  (latest)\n")
    for expected in ("data.txt", "empty after cleaning", "recall@5", "0.8125", "bm25_language"):
        assert expected in result.stdout


def test_lineage_goes_up_and_down(made) -> None:
    output = runner.invoke(app, ["show", "index/tiny@latest"]).stdout
    up, down = output.split("made from")[1].split("used for")
    short = {kind: f"{kind}/tiny/{ref.fingerprint[:8]}" for kind, ref in made.items()}
    assert f"corpus: {short['corpus']}" in up
    assert short["dataset"] not in up
    assert f"{short['dataset']} (as index)" in down


def test_an_ancestor_met_twice_is_drawn_once(made) -> None:
    up = runner.invoke(app, ["show", "dataset/tiny@latest"]).stdout.split("made from")[1]
    assert up.count("(see above)") == 1


def test_one_artifact_as_json(made) -> None:
    shown = json.loads(runner.invoke(app, ["show", "dataset/tiny@latest", "--json"]).stdout)
    assert shown["made_from"] == {"corpus": made["corpus"].key, "index": made["index"].key}
    assert shown["manifest"]["seed"] == 42
    corpus = json.loads(runner.invoke(app, ["show", "corpus/tiny@latest", "--json"]).stdout)
    assert corpus["used_for"] == [made["index"].key, made["dataset"].key]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model/tiny@champion", "There is no model 'tiny' with the alias 'champion'"),
        ("corpus/tiny/00000000", "0 artifacts match"),
        ("banana", "'banana' is not an artifact reference"),
    ],
)
def test_a_reference_that_leads_nowhere_says_so(made, text: str, message: str) -> None:
    result = runner.invoke(app, ["show", text])
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
