"""Artifacts of any kind, published without running their stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactKind
from pipeline_lib.config import FrozenConfig, PromoteConfig
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage


def publish(
    ws: Workspace,
    kind: ArtifactKind,
    build: Callable[[ArtifactDraft], object] = lambda _draft: None,
    *,
    name: str = "demo",
    stage: str = "made by hand",
    config: FrozenConfig | None = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> StageResult:
    """What `build` writes, as an artifact of these inputs; no stage need be able to read it."""
    return run_stage(
        ws,
        kind=kind,
        name=name,
        stage=stage,
        stage_version=1,
        config=config or PromoteConfig(),
        inputs=inputs or {},
        build=build,
        seed=seed,
    )
