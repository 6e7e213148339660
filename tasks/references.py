"""From what a person types for an artifact to the artifact that is meant."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline_lib.artifacts.manifest import FINGERPRINT_LENGTH, ArtifactKind, ArtifactRef
from pipeline_lib.artifacts.store import LATEST
from pipeline_lib.errors import ArtifactNotFoundError, ConfigError
from tasks.runtime import open_workspace, stage_task

MADE_BY = {
    "corpus": "ingest",
    "index": "index",
    "dataset": "synthesize",
    "model": "finetune",
    "evaluation": "evaluate",
}
"""Kind of artifact to the flow that makes it."""

_FINGERPRINT = re.compile(rf"[0-9a-f]{{4,{FINGERPRINT_LENGTH}}}")
_ALIAS = re.compile(r"[a-z][a-z0-9-]*")


def full_reference(kind: ArtifactKind, name: str, text: str) -> str:
    """The full form of a reference, by rules alone; asks no store.

    `latest` and other aliases become `kind/name@alias`, fingerprints (or at least four leading
    digits of one) `kind/name/fingerprint`. Full references stay as they are: they may name
    another pipeline's artifact, but never another kind.

    Raises:
        ConfigError: the text is no reference, or one to another kind of artifact.
    """
    text = text.strip()
    if "/" not in text and "@" not in text:
        if _FINGERPRINT.fullmatch(text) and any(digit.isdigit() for digit in text):
            return f"{kind}/{name}/{text}"
        if _ALIAS.fullmatch(text):
            return f"{kind}/{name}@{text}"
    elif text.startswith(f"{kind}/"):
        return text
    raise ConfigError(
        f"{text!r} is no reference to a {kind} artifact",
        hint=f"Write 'latest', another alias, a fingerprint, '{kind}/{name}@latest' or "
        f"'{kind}/{name}/<fingerprint>'.",
    )


def is_latest(reference: str) -> bool:
    """Whether a full reference means whatever was made last."""
    return reference.endswith(f"@{LATEST}")


@stage_task(name="resolve", description="Looks up which artifacts the run starts from.")
def resolve(
    references: Mapping[str, str], optional: tuple[str, ...] = ()
) -> dict[str, ArtifactRef]:
    """Role to artifact, for full references.

    Args:
        references: role to full reference (see `full_reference`).
        optional: roles that may lead nowhere; they are then missing from what is returned.

    Raises:
        ArtifactNotFoundError: a role that is not optional leads nowhere; names the flow to run.
    """
    found = {}
    with open_workspace() as ws:
        for role, reference in references.items():
            try:
                ref = ws.artifacts.resolve(reference)
                ws.artifacts.manifest(ref)
            except ArtifactNotFoundError as error:
                if role in optional:
                    continue
                kind = reference.partition("/")[0]
                raise ArtifactNotFoundError(
                    f"{role}: {error.message}", hint=f"The flow {MADE_BY[kind]!r} makes it."
                ) from error
            found[role] = ref
    return found
