"""Stages chain: supervised, then preferences, then rewards, each going on from the one before."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.config.contexts import PreferenceConfig
from pipeline_lib.errors import InputError
from pipeline_lib.raft.derived.preferences import PREFERENCES_FILE, PreferenceWriter, make_pair
from pipeline_lib.raft.rows import SPLITS, split_file, write_rows
from pipeline_lib.stage import ArtifactDraft, Workspace
from pipeline_lib.training.stage import finetune
from tests.artifacts.made_artifacts import publish

from .conftest import make_row
from .warm_ranks import launch

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(workspace: Workspace) -> ArtifactRef:
    """8 training rows and 2 of each other split, each with a pair that cites the wrong passage."""

    def build(draft: ArtifactDraft) -> None:
        config = PreferenceConfig(share=1, rejected={"misattributed": 1})
        with PreferenceWriter(draft.directory / PREFERENCES_FILE) as pairs:
            for place, (split, count) in enumerate(zip(SPLITS, (8, 2, 2), strict=True)):
                rows = [make_row(10 * place + number, split) for number in range(count)]
                write_rows(draft.directory / split_file(split), rows)
                for row in rows:
                    pair = make_pair(row, config, seed=7, one_more=lambda _row: None)
                    assert pair is not None
                    pairs.write(pair)

    return publish(workspace, "dataset", build).ref


def test_an_adapter_goes_through_all_three(
    workspace: Workspace,
    dataset: ArtifactRef,
    tiny_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline_lib.training.stage.run_training", launch)
    config = FinetuneConfig.model_validate(
        {
            "base_model": str(tiny_model_path),
            "stages": ("sft", "dpo", "grpo"),
            "supervised": {"max_steps": 1, "warmup_fraction": 0, "learning_rate": 0.05},
            "preferences": {"max_steps": 1},
            "reinforcement": {"max_steps": 1, "num_generations": 2, "max_new_tokens": 8},
            "launch": {"num_processes": 1},
            "engine": {"zero_stage": 0, "precision": "fp32"},
        }
    )
    told: list[str] = []
    result = finetune(
        workspace, "demo", config, dataset, on_stage=lambda made: told.append(made.ref.name)
    )
    assert told == ["demo-sft", "demo-dpo", "demo"]
    assert result.ref.name == "demo"
    assert (workspace.artifacts.directory(result.ref) / "adapter").is_dir()
    manifest = workspace.artifacts.manifest(result.ref)
    before = ArtifactRef.parse(manifest.inputs["previous"])
    assert before.name == "demo-dpo"
    assert set(manifest.details["reward_separation"]) >= {"answer", "verbatim", "total"}
    preferred = workspace.artifacts.manifest(before)
    assert ArtifactRef.parse(preferred.inputs["previous"]).name == "demo-sft"
    assert preferred.details["pairs_by_fault"] == {"misattributed": 8}
    # Log 2: its reference is the adapter that the supervised stage left.
    assert preferred.metrics["initial_validation_loss"] == pytest.approx(0.693147, abs=1e-5)


def test_what_a_later_stage_lacks_is_said_before_the_first_one_trains(
    workspace: Workspace, dataset: ArtifactRef, tiny_model_path: Path
) -> None:
    config = FinetuneConfig.model_validate(
        {"base_model": str(tiny_model_path), "stages": ("sft", "dapt")}
    )
    with pytest.raises(InputError, match=r"plain text of 0 training documents") as caught:
        finetune(workspace, "demo", config, dataset)
    assert "synthesize.tasks.pretraining" in str(caught.value)
    assert workspace.artifacts.refs("model") == []
