"""What a model is compared with."""

from __future__ import annotations

from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import PromoteConfig
from pipeline_lib.evaluation.baseline import choose_baseline
from pipeline_lib.stage import Workspace, run_stage


def publish(workspace: Workspace, kind: Any, seed: int = 0, **inputs: ArtifactRef) -> ArtifactRef:
    return run_stage(
        workspace,
        kind=kind,
        name="docs",
        stage="by hand",
        stage_version=1,
        config=PromoteConfig(),
        inputs=inputs,
        build=lambda draft: None,
        seed=seed,
    ).ref


def crown(workspace: Workspace, model: ArtifactRef) -> None:
    workspace.artifacts.set_alias("champion", model)


def test_the_first_model_is_compared_with_the_base_model_alone(workspace: Workspace) -> None:
    assert choose_baseline(workspace, "docs", publish(workspace, "model")) is None


def test_a_new_model_is_compared_with_the_champion(workspace: Workspace) -> None:
    old, new = publish(workspace, "model", seed=1), publish(workspace, "model", seed=2)
    crown(workspace, old)
    assert choose_baseline(workspace, "docs", new) == old


def test_a_champion_keeps_the_comparison_that_made_it_one(workspace: Workspace) -> None:
    old, new = publish(workspace, "model", seed=1), publish(workspace, "model", seed=2)
    publish(workspace, "evaluation", model=new, champion=old)
    crown(workspace, new)
    assert choose_baseline(workspace, "docs", new) == old


def test_the_first_champion_is_not_compared_with_itself(workspace: Workspace) -> None:
    model = publish(workspace, "model")
    crown(workspace, model)
    assert choose_baseline(workspace, "docs", model) is None
    publish(workspace, "evaluation", model=model)
    assert choose_baseline(workspace, "docs", model) is None


def test_an_evaluation_of_another_model_says_nothing(workspace: Workspace) -> None:
    old, new = publish(workspace, "model", seed=1), publish(workspace, "model", seed=2)
    publish(workspace, "evaluation", model=old, champion=new)
    crown(workspace, new)
    assert choose_baseline(workspace, "docs", new) is None
