"""Which model, beside the base model, an evaluation compares with."""

from __future__ import annotations

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import CHAMPION as CHAMPION_ALIAS
from pipeline_lib.artifacts.store import LATEST
from pipeline_lib.evaluation.records import CHAMPION
from pipeline_lib.stage import Workspace


def choose_baseline(ws: Workspace, name: str, model: ArtifactRef) -> ArtifactRef | None:
    """The present champion; for the champion itself, what it was compared with last.

    A champion is not compared with itself. As a rule it was last compared with its predecessor,
    when it took its place: choosing that again lets an unchanged run find its evaluation instead
    of paying for another one.

    Args:
        ws: live services.
        name: the pipeline's name.
        model: what is to be evaluated.

    Returns:
        `None` when there is nothing to compare with but the base model.
    """
    champion = ws.artifacts.alias("model", name, CHAMPION_ALIAS)
    if champion != model:
        return champion
    latest = ws.artifacts.alias("evaluation", name, LATEST)
    manifest = ws.artifacts.find(latest) if latest is not None else None
    if manifest is None or manifest.input_refs.get("model") != model:
        return None
    return manifest.input_refs.get(CHAMPION)
