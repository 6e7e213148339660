"""What an artifact is called, what its manifest records, and how fingerprints are made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.errors import ConfigError

ArtifactKind = Literal["corpus", "index", "dataset", "model", "evaluation"]
KINDS: tuple[str, ...] = get_args(ArtifactKind)
MANIFEST_FILE = "manifest.json"
FINGERPRINT_LENGTH = 32
"""Hex digits kept of the SHA-256: 128 bits."""

_REF_PATTERN = re.compile(
    rf"(?P<kind>{'|'.join(KINDS)})/(?P<name>[a-z0-9][a-z0-9-]{{0,62}})"
    rf"/(?P<fingerprint>[0-9a-f]{{{FINGERPRINT_LENGTH}}})"
)


class ArtifactRef(BaseModel):
    """Names one artifact. What travels between tasks; a few dozen bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ArtifactKind
    name: str
    fingerprint: str

    @property
    def key(self) -> str:
        """`kind/name/fingerprint`: its string form, and its key prefix in the store."""
        return f"{self.kind}/{self.name}/{self.fingerprint}"

    def __str__(self) -> str:
        return self.key

    @classmethod
    def parse(cls, text: str) -> ArtifactRef:
        """Read the string form.

        Raises:
            ConfigError: the text is not `kind/name/fingerprint`.
        """
        match = _REF_PATTERN.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"{text!r} is not an artifact reference",
                hint="Write kind/name/fingerprint or kind/name@alias, for example "
                "'model/demo@champion'; kinds are " + ", ".join(KINDS) + ".",
            )
        return cls.model_validate(match.groupdict())


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Relative to the artifact, with forward slashes."""
    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """The record of one complete artifact; written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: ArtifactRef
    stage: str
    stage_version: int
    config: dict[str, Any]
    """The resolved configuration, operational fields included."""
    inputs: dict[str, str]
    """Role to artifact reference or content hash."""
    seed: int | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    dropped: dict[str, int] = Field(default_factory=dict)
    """Reason to count."""
    metrics: dict[str, float] = Field(default_factory=dict)
    ledger: dict[str, float] = Field(default_factory=dict)
    """Tokens, calls, seconds, cost; units end the names."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Small stage-specific facts (JSON)."""
    attempt: str
    """Folder of the data below the artifact's key; another attempt never overwrites it."""
    files: tuple[FileEntry, ...]
    code_version: str
    libraries: dict[str, str]
    started_at: datetime
    finished_at: datetime

    @property
    def input_refs(self) -> dict[str, ArtifactRef]:
        """Those inputs that are artifacts: one step up the lineage."""
        return {
            role: ArtifactRef.parse(value)
            for role, value in self.inputs.items()
            if _REF_PATTERN.fullmatch(value)
        }


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
"""Made once: every hash of a row asks for it."""


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes on every machine.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON cannot carry.
        TypeError: the value is not JSON.
    """
    return _CANONICAL.encode(value).encode()


def fingerprint(
    *,
    stage: str,
    stage_version: int,
    output_config: Mapping[str, Any],
    inputs: Mapping[str, str],
    seed: int | None = None,
) -> str:
    """The identity of a stage's output, known before the work is done (32 hex digits)."""
    identity = {
        "stage": stage,
        "stage_version": stage_version,
        "config": dict(output_config),
        "inputs": dict(inputs),
        "seed": seed,
    }
    return hashlib.sha256(canonical_json(identity)).hexdigest()[:FINGERPRINT_LENGTH]
