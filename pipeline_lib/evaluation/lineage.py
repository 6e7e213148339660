"""Every artifact that an evaluation rests on, for its report."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.evaluation.report import LineageEntry
from pipeline_lib.stage import Workspace


def trace_lineage(ws: Workspace, artifacts: Mapping[str, ArtifactRef]) -> list[LineageEntry]:
    """The artifacts and whatever they were made from, nearest first, each once.

    Raises:
        ArtifactNotFoundError: one of them is gone.
    """
    waiting = list(artifacts.items())
    seen: dict[ArtifactRef, LineageEntry] = {}
    while waiting:
        role, ref = waiting.pop(0)
        if ref in seen:
            continue
        manifest = ws.artifacts.manifest(ref)
        seen[ref] = LineageEntry(
            role=role,
            reference=str(ref),
            uri=ws.artifacts.uri(ref),
            made_at=manifest.finished_at,
            code_version=manifest.code_version,
        )
        waiting.extend(manifest.input_refs.items())
    return list(seen.values())
