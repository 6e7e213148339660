"""`raftline estimate-training`: what is asked for, and how the answer reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.settings import Settings
from pipeline_lib.training.estimate import TrainingEstimate

runner = CliRunner()


def run(file: Path, *arguments: str) -> Any:
    options = ["--rows", "32", "--tokens", "512", "--answer-tokens", "32", *arguments]
    return runner.invoke(app, ["estimate-training", "--config", str(file), *options])


@pytest.fixture
def configured(settings: Settings, tmp_path: Path, tiny_model_path: Path) -> Path:
    """A pipeline that trains the tiny model; its estimate needs no store."""
    file = tmp_path / "docs.yaml"
    file.write_text(f"name: docs\nfinetune: {{base_model: {tiny_model_path}, method: full}}\n")
    return file


def test_it_says_what_a_training_takes_and_that_it_fits(configured: Path) -> None:
    result = run(configured, "--gpu", "H100", "--gpu-memory", "80")
    assert result.exit_code == 0, result.output
    output = " ".join(result.stdout.split())
    assert "sft by full in bf16 on H100: 107,200 of 107,200 parameters learn" in output
    assert (
        "4 rows per step = 2 ranks x 1 row x 2 micro batches; 64 steps over 32 rows, "
        "learning rate 0.0001"
    ) in output
    assert "The largest micro batch has 512 tokens, 32 of them learned." in output
    assert "free 80.0 GB 256 GB" in output
    assert "time of the steps: about" in output
    assert "It fits." in output


def test_what_does_not_fit_ends_with_an_error_code_and_advice(configured: Path) -> None:
    result = run(configured, "--gpu", "H100", "--gpu-memory", "1")
    assert result.exit_code == 1
    assert "It does not fit." in result.stdout


def test_json_is_one_estimate_for_each_stage(configured: Path) -> None:
    configured.write_text(configured.read_text().replace("method: full", "stages: [dapt, sft]"))
    result = run(configured, "--gpu", "A100", "--json")
    told = [TrainingEstimate.model_validate(each) for each in json.loads(result.stdout)]
    assert [each.objective for each in told] == ["dapt", "sft"]
    assert all(each.fits for each in told)
