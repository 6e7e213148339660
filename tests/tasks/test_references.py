"""What people type for an artifact, and which artifact is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.errors import ArtifactNotFoundError, ConfigError
from pipeline_lib.stage import StageResult, Workspace
from tasks.references import full_reference, is_latest, resolve
from tests.artifacts.made_artifacts import publish

FINGERPRINT = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("latest", "model/docs@latest"),
        (" champion ", "model/docs@champion"),
        (FINGERPRINT, f"model/docs/{FINGERPRINT}"),
        ("0123456", "model/docs/0123456"),
        ("model/other@latest", "model/other@latest"),
        (f"model/docs/{FINGERPRINT}", f"model/docs/{FINGERPRINT}"),
    ],
)
def test_short_forms_are_completed_and_full_ones_kept(typed: str, meant: str) -> None:
    assert full_reference("model", "docs", typed) == meant


def test_a_word_of_hex_letters_is_an_alias_unless_it_has_a_digit() -> None:
    assert full_reference("model", "docs", "facade") == "model/docs@facade"
    assert full_reference("model", "docs", "facade1") == "model/docs/facade1"


@pytest.mark.parametrize("typed", ["", "corpus/docs@latest", "No!", "@latest", "a/b/c"])
def test_anything_else_is_refused_with_the_forms_that_exist(typed: str) -> None:
    with pytest.raises(ConfigError, match="is no reference to a model artifact") as refused:
        full_reference("model", "docs", typed)
    assert "model/docs@latest" in str(refused.value)


def test_latest_is_told_from_other_references() -> None:
    assert is_latest("model/docs@latest")
    assert not is_latest("model/docs@champion")
    assert not is_latest(f"model/docs/{FINGERPRINT}")


def test_references_lead_to_artifacts(workspace: Workspace) -> None:
    made = _make_corpus(workspace)
    found = resolve.fn(
        {
            "by alias": "corpus/docs@latest",
            "by start": f"corpus/docs/{made.ref.fingerprint[:8]}",
            "not there": "model/docs@latest",
        },
        optional=("not there",),
    )
    assert found == {"by alias": made.ref, "by start": made.ref}


def test_a_missing_artifact_names_its_role_and_the_flow_that_makes_it(workspace: Workspace) -> None:
    with pytest.raises(ArtifactNotFoundError, match=r"^dataset: .*docs") as missing:
        resolve.fn({"dataset": "dataset/docs@latest"})
    assert missing.value.hint == "The flow 'synthesize' makes it."


def _make_corpus(workspace: Workspace) -> StageResult:
    return publish(workspace, "corpus", lambda draft: _write(draft.directory), name="docs")


def _write(folder: Path) -> None:
    (folder / "file").write_text("content")
