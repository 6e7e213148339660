"""`raftline manifest` and `raftline join`: several machines, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace
from pipeline_lib.training import joining
from tests.artifacts.made_artifacts import publish

runner = CliRunner()
REF = f"model/docs/{'a' * 32}"


@pytest.fixture
def dataset(settings: Settings) -> str:
    """A dataset to train on; gives its reference."""
    return str(publish(Workspace.open(settings=settings), "dataset", name="docs").ref)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Four nodes, and no address: that is the cluster's."""
    path = tmp_path / "finetune.yaml"
    path.write_text("launch: {num_nodes: 4, num_processes: 8}\nbatch: {global_batch_size: 32}\n")
    return path


def manifest(config: Path, *arguments: str) -> Any:
    command = ["manifest", "--config", str(config), "--name", "docs", "--image", "gpu:1"]
    return runner.invoke(app, [*command, *arguments])


@pytest.mark.parametrize("kind", ["job", "trainjob"])
def test_a_manifest_pins_the_dataset_and_is_what_the_pods_can_read(
    config: Path, dataset: str, kind: str
) -> None:
    result = manifest(config, "--kind", kind, "--namespace", "research")
    assert result.exit_code == 0, result.output
    documents = list(yaml.safe_load_all(result.output))
    assert {each["metadata"]["name"] for each in documents} == {"docs-training"}
    assert {each["metadata"]["namespace"] for each in documents} == {"research"}
    order = joining.TrainingOrder.model_validate_json(documents[0]["data"]["training.json"])
    assert str(order.dataset) == dataset
    assert order.config.launch.num_nodes == 4


def test_an_unknown_kind_of_manifest_is_refused(config: Path, dataset: str) -> None:
    result = manifest(config, "--kind", "pod")
    assert result.exit_code == 1
    assert "trainjob, job" in result.output


def test_a_pod_takes_order_and_number_from_its_variables(
    config: Path, dataset: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = list(yaml.safe_load_all(manifest(config, "--kind", "job").output))
    taken: list[Any] = []
    monkeypatch.setattr(joining, "take_part", lambda *arguments: taken.extend(arguments))
    monkeypatch.setenv("RAFTLINE_TRAINING", documents[0]["data"]["training.json"])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    result = runner.invoke(app, ["join"])
    assert result.exit_code == 0, result.output
    _, order, node, _ = taken
    assert (order.name, node.rank) == ("docs", 2)


def test_a_machine_joins_by_reference(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(joining, "join_training", lambda *arguments: taken.extend(arguments))
    result = runner.invoke(app, ["join", REF, "--node-rank", "3", "--wait", "5"])
    assert result.exit_code == 0, result.output
    _, ref, node, patience = taken
    assert (str(ref), node.rank, patience) == (REF, 3, 5)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "either the model to take part in or the whole training"),
        ([REF, "--node-rank", "0"], "Node 0 owns the training"),
        (["--training", "{}"], "is not a training"),
        ([REF, "--wait", "1"], "No training of model/docs/"),
    ],
)
def test_what_cannot_be_joined_is_said(
    settings: Settings, arguments: list[str], complaint: str
) -> None:
    result = runner.invoke(app, ["join", *arguments])
    assert result.exit_code == 1
    assert complaint in " ".join(result.output.split())
