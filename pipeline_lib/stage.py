"""How every stage runs: look for its artifact, else build it, publish it, and say what happened."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactKind, ArtifactRef, Manifest, fingerprint
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.artifacts.store import LATEST, ArtifactStore
from pipeline_lib.config import FrozenConfig
from pipeline_lib.progress import NullProgress, Progress
from pipeline_lib.settings import Settings, load_settings

logger = logging.getLogger(__name__)

_LONG_BUILD_SECONDS = 5.0
"""A build that took longer may have left much behind; to look through all objects takes a second.
"""
_RECORDED_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "sentence-transformers",
    "qdrant-client",
    "qdrant-edge-py",
    "prefect",
    "pyarrow",
    "sacrebleu",
    "trafilatura",
    "pypdfium2",
    "python-docx",
    "python-pptx",
    "openpyxl",
)


@dataclass(frozen=True)
class Workspace:
    """The live objects a stage works with."""

    settings: Settings
    artifacts: ArtifactStore
    progress: Progress

    @classmethod
    def open(cls, progress: Progress | None = None, settings: Settings | None = None) -> Workspace:
        """Connect to the services that the settings name; creates the bucket when missing.

        Raises:
            StoreError: the object store cannot be used.
        """
        settings = settings or load_settings()
        artifacts = ArtifactStore(settings)
        artifacts.objects.ensure_bucket()
        return cls(settings, artifacts, progress or NullProgress())


class StageResult(BaseModel):
    """What a stage hands on: a reference and counts, never data."""

    model_config = ConfigDict(frozen=True)

    ref: ArtifactRef
    reused: bool
    """The artifact was there already; no work was done."""
    counts: dict[str, int]
    dropped: dict[str, int]
    metrics: dict[str, float]
    uri: str
    seconds: float


@dataclass
class ArtifactDraft:
    """An artifact while it is being built."""

    ref: ArtifactRef
    directory: Path
    """An empty folder; every file in it becomes part of the artifact."""
    partial: PartialWork
    """Resumable work, kept in S3 until the artifact is published."""
    counts: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    ledger: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def stage_ref(
    *,
    kind: ArtifactKind,
    name: str,
    stage: str,
    stage_version: int,
    config: FrozenConfig,
    inputs: Mapping[str, ArtifactRef | str],
    seed: int | None = None,
) -> ArtifactRef:
    """What a stage's artifact will be called, known before the work; see `run_stage`."""
    mark = fingerprint(
        stage=stage,
        stage_version=stage_version,
        output_config=config.output_config(),
        inputs=_texts(inputs),
        seed=seed,
    )
    return ArtifactRef(kind=kind, name=name, fingerprint=mark)


def run_stage(
    ws: Workspace,
    *,
    kind: ArtifactKind,
    name: str,
    stage: str,
    stage_version: int,
    config: FrozenConfig,
    inputs: Mapping[str, ArtifactRef | str],
    build: Callable[[ArtifactDraft], None],
    seed: int | None = None,
    is_intact: Callable[[Manifest], bool] | None = None,
) -> StageResult:
    """Reuse the stage's artifact if it exists, else build and publish it.

    Args:
        ws: live services.
        kind: what the stage makes.
        name: the pipeline's name.
        stage: the stage's name.
        stage_version: raised whenever equal inputs may give a different output.
        config: what to do; its operational fields stay out of the fingerprint.
        inputs: role to artifact, or to the content hash of something that is not an artifact.
        build: fills `ArtifactDraft.directory` and the counts; may keep resumable work in
            `ArtifactDraft.partial`. Whatever it raises ends the stage with nothing published.
        seed: part of the fingerprint, for stages that draw.
        is_intact: for artifacts that rest on state outside the store (a Qdrant collection):
            whether that state is still there. If not, the stage runs again.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    ref = stage_ref(
        kind=kind,
        name=name,
        stage=stage,
        stage_version=stage_version,
        config=config,
        inputs=inputs,
        seed=seed,
    )
    manifest = ws.artifacts.find(ref)
    if manifest is not None and is_intact is not None and not is_intact(manifest):
        logger.warning("%s exists, but what it points to is gone: building it again", ref)
        ws.artifacts.invalidate(ref)
        manifest = None
    reused = manifest is not None
    if manifest is None:
        partial = ws.artifacts.partial(ref)
        ws.settings.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{stage}-", dir=ws.settings.scratch) as folder:
            draft = ArtifactDraft(ref=ref, directory=Path(folder), partial=partial)
            build(draft)
            draft.ledger["seconds"] = round(time.monotonic() - clock, 3)
            manifest = ws.artifacts.publish(
                draft.directory,
                {
                    "ref": ref,
                    "stage": stage,
                    "stage_version": stage_version,
                    "config": config.model_dump(mode="json"),
                    "inputs": _texts(inputs),
                    "seed": seed,
                    "counts": draft.counts,
                    "dropped": dict(draft.dropped),
                    "metrics": draft.metrics,
                    "ledger": draft.ledger,
                    "details": draft.details,
                    "code_version": code_version(),
                    "libraries": library_versions(),
                    "started_at": started,
                    "finished_at": datetime.now(UTC),
                },
            )
        partial.delete()
        if time.monotonic() - clock > _LONG_BUILD_SECONDS:
            release_memory()
    ws.artifacts.set_alias(LATEST, ref, reason=f"{stage} {'reused' if reused else 'built'} it")
    logger.info("%s %s %s", stage, "reused" if reused else "built", ws.artifacts.uri(ref))
    return StageResult(
        ref=ref,
        reused=reused,
        counts=manifest.counts,
        dropped=manifest.dropped,
        metrics=manifest.metrics,
        uri=ws.artifacts.uri(ref),
        seconds=round(time.monotonic() - clock, 3),
    )


def _texts(inputs: Mapping[str, ArtifactRef | str]) -> dict[str, str]:
    return {role: str(value) for role, value in inputs.items()}


def release_memory() -> None:
    """Give back to the system what this process no longer uses.

    The next stage may start other processes (the ranks of a training), to which memory that a
    model left behind in this one's heap would be missing.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that shape results, for the manifest."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for library in _RECORDED_LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions


@cache
def code_version() -> str:
    """The package version, and the commit where the code runs from a git checkout."""
    import subprocess
    from importlib.metadata import PackageNotFoundError, version

    try:
        release = version("raftline")
    except PackageNotFoundError:
        release = "unreleased"
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return release
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        logger.debug("git could not describe the checkout", exc_info=True)
        return release
    return f"{release}+{described.stdout.strip()}"
