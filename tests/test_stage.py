"""Reuse, publication and resumption, the rules every stage lives by."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from pipeline_lib.config import FrozenConfig, operational
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, release_memory, run_stage


class Config(FrozenConfig):
    size: int = 1
    num_threads: int = operational(1)


class Builder:
    """Writes one file, and counts how often it was asked to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error

    def __call__(self, draft: ArtifactDraft) -> None:
        self.calls += 1
        seen = draft.partial.get("first-half")
        draft.partial.put("first-half", b"done")
        draft.details["resumed"] = seen is not None
        if self.error:
            raise self.error
        (draft.directory / "data").write_bytes(b"1")
        draft.counts["num_rows"] = 1
        draft.dropped["too_long"] += 2


def run(ws: Workspace, build: Builder, **changes: Any) -> StageResult:
    arguments: dict[str, Any] = {
        "kind": "corpus",
        "name": "demo",
        "stage": "test",
        "stage_version": 1,
        "config": Config(),
        "inputs": {"sources": "sha256:1"},
        "seed": 0,
        **changes,
    }
    return run_stage(ws, build=build, **arguments)


def test_the_second_run_reuses_and_says_so(workspace: Workspace) -> None:
    build = Builder()
    first, second = run(workspace, build), run(workspace, build)
    assert (first.reused, second.reused) == (False, True)
    assert build.calls == 1
    assert second.ref == first.ref
    assert second.counts == {"num_rows": 1}
    assert second.dropped == {"too_long": 2}
    assert workspace.artifacts.alias("corpus", "demo", "latest") == first.ref


@pytest.mark.parametrize(
    "changes",
    [
        {"stage_version": 2},
        {"config": Config(size=2)},
        {"inputs": {"sources": "sha256:2"}},
        {"seed": 1},
        {"stage": "other"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_can_change_the_output_changes_the_fingerprint(
    workspace: Workspace, changes: dict[str, Any]
) -> None:
    assert run(workspace, Builder()).ref != run(workspace, Builder(), **changes).ref


def test_an_operational_field_does_not_change_the_fingerprint(workspace: Workspace) -> None:
    first = run(workspace, Builder())
    assert run(workspace, Builder(), config=Config(num_threads=8)).reused
    assert workspace.artifacts.manifest(first.ref).config == {"size": 1, "num_threads": 1}


def test_a_failed_stage_publishes_nothing_and_resumes_its_partial_work(
    workspace: Workspace,
) -> None:
    with pytest.raises(ZeroDivisionError):
        run(workspace, Builder(ZeroDivisionError()))
    assert workspace.artifacts.refs() == []
    result = run(workspace, Builder())
    assert workspace.artifacts.manifest(result.ref).details == {"resumed": True}
    assert workspace.artifacts.partial(result.ref).keys() == []
    assert list(workspace.settings.scratch.iterdir()) == []


def test_an_artifact_whose_outside_state_is_gone_is_built_again(workspace: Workspace) -> None:
    build = Builder()
    run(workspace, build)
    assert run(workspace, build, is_intact=lambda manifest: True).reused
    assert not run(workspace, build, is_intact=lambda manifest: False).reused
    assert build.calls == 2


def test_the_manifest_says_what_made_the_artifact(workspace: Workspace) -> None:
    result = run(workspace, Builder())
    manifest = workspace.artifacts.manifest(result.ref)
    assert manifest.inputs == {"sources": "sha256:1"}
    assert manifest.libraries["torch"].startswith("2.13")
    assert manifest.code_version.startswith("0.")
    assert manifest.started_at <= manifest.finished_at
    assert manifest.ledger["seconds"] >= 0
    entry = manifest.files[0]
    assert (entry.path, entry.size_bytes) == ("data", 1)


def test_memory_that_a_stage_no_longer_uses_goes_back_to_the_system():
    # Blocks too large for Python's own allocator; the last one keeps the heap's end in place.
    process = psutil.Process()
    blocks = [bytearray(2_000) for _ in range(100_000)]
    held = process.memory_info().rss
    last = blocks[-1]
    del blocks

    release_memory()

    assert process.memory_info().rss < held - 150_000_000
    assert len(last) == 2_000
