"""The stage as a whole: dataset in, loadable model out, by real ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import InputError
from pipeline_lib.raft.rows import SPLITS, split_file, write_rows
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace
from pipeline_lib.training.stage import finetune
from tests.artifacts.made_artifacts import publish

from .conftest import make_row
from .warm_ranks import launch

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(workspace: Workspace) -> ArtifactRef:
    """A dataset artifact of 8 training rows and 2 of each other split."""

    def build(draft: ArtifactDraft) -> None:
        number = 0
        for split, count in zip(SPLITS, (8, 2, 2), strict=True):
            rows = [make_row(number + offset, split) for offset in range(count)]
            write_rows(draft.directory / split_file(split), rows)
            number += count

    return publish(workspace, "dataset", build).ref


class RecordedProgress:
    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None]] = []
        self.done = 0

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        self.phases.append((description, total))

    def advance(self, count: int = 1) -> None:
        self.done += count

    def note(self, text: str) -> None:
        self.last_note = text

    def finish(self) -> None:
        pass


STEEP: dict[str, Any] = {
    "supervised": {"max_steps": 2, "learning_rate": 0.05},
    "engine": {"precision": "fp32"},
}


def run(ws: Workspace, dataset: ArtifactRef, model: Path, **config: Any) -> StageResult:
    sections = {"base_model": str(model), "supervised": {"max_steps": 2}} | config
    return finetune(ws, "demo", FinetuneConfig.model_validate(sections), dataset)


def test_the_model_loads_and_merged_equals_adapter(
    workspace: Workspace, dataset: ArtifactRef, tiny_model_path: Path
) -> None:
    progress = RecordedProgress()
    ws = Workspace(workspace.settings, workspace.artifacts, progress)
    result = run(ws, dataset, tiny_model_path, **STEEP)
    assert progress.phases == [
        ("Tokenizing", 2),
        ("Loading the model", 2),
        ("Validating before training", 1),
        ("Training (sft)", 2),
        ("Merging and saving", 1),
    ]
    assert "validation" in progress.last_note

    folder = ws.artifacts.directory(result.ref)
    _assert_merged_equals_adapter(folder, tiny_model_path)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if "loss" in e] == [1, 2]
    assert max(e.get("learning_rate", 0) for e in log) == 0.05
    assert ws.artifacts.manifest(result.ref).details["learning_rate"] == 0.05
    assert [e["step"] for e in log if "eval_loss" in e] == [0, 2]
    assert result.metrics["final_validation_loss"] < result.metrics["initial_validation_loss"]
    assert result.counts["num_train_rows"] == 8
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert {"README.md", "adapter/adapter_config.json", "merged/tokenizer.json"} <= names
    adapter_config = (folder / "adapter" / "adapter_config.json").read_text()
    assert str(workspace.settings.home) not in adapter_config
    assert str(dataset) in (folder / "README.md").read_text()

    assert run(ws, dataset, tiny_model_path, **STEEP).reused


def test_full_fine_tuning_under_zero_3_saves_whole_weights(
    workspace: Workspace,
    dataset: ArtifactRef,
    tiny_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("pipeline_lib.training.stage.run_training", launch)
    result = run(workspace, dataset, tiny_model_path, method="full", engine={"zero_stage": 3})
    folder = workspace.artifacts.directory(result.ref)
    assert not (folder / "adapter").exists()
    trained = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    for (name, new), old in zip(trained.named_parameters(), base.parameters(), strict=True):
        assert new.shape == old.shape, name
        assert torch.isfinite(new).all(), name
    assert result.counts["num_parameters"] == sum(p.numel() for p in base.parameters())


def test_a_limit_that_no_row_meets_is_an_input_error(
    workspace: Workspace, dataset: ArtifactRef, tiny_model_path: Path
) -> None:
    with pytest.raises(InputError, match="None of the 8 train rows fits into 64 tokens"):
        run(workspace, dataset, tiny_model_path, batch={"max_seq_len": 64})


def _assert_merged_equals_adapter(folder: Path, base: Path) -> None:
    """`W + (alpha / r) B A`, computed here by hand for every adapted matrix, in fp32."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    config = FinetuneConfig()
    merged = dict(AutoModelForCausalLM.from_pretrained(folder / "merged").named_parameters())
    original = dict(AutoModelForCausalLM.from_pretrained(base).named_parameters())
    prefix, marker = "base_model.model.", ".lora_A.weight"
    adapted = [name.removeprefix(prefix).removesuffix(marker) for name in adapter if marker in name]
    assert len(adapted) == 14  # seven matrices in each of two layers
    import torch

    for name in adapted:
        a = adapter[f"{prefix}{name}.lora_A.weight"].float()
        b = adapter[f"{prefix}{name}.lora_B.weight"].float()
        assert b.abs().max() > 0
        expected = original[f"{name}.weight"] + (config.lora.alpha / config.lora.r) * (b @ a)
        torch.testing.assert_close(merged[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)
