"""Artifacts that benchmarks bring along instead of running the stages before."""

from __future__ import annotations

from collections.abc import Callable

from pipeline_lib.artifacts.manifest import ArtifactKind, ArtifactRef
from pipeline_lib.config import FrozenConfig
from pipeline_lib.stage import ArtifactDraft, Workspace, run_stage


def publish_made(
    ws: Workspace,
    kind: ArtifactKind,
    config: FrozenConfig,
    build: Callable[[ArtifactDraft], None],
    **inputs: ArtifactRef | str,
) -> ArtifactRef:
    """What `build` writes, as an artifact that `config` and `inputs` name."""
    return run_stage(
        ws,
        kind=kind,
        name="benchmark",
        stage="benchmark",
        stage_version=1,
        config=config,
        inputs=inputs,
        build=build,
    ).ref
