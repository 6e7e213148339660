"""Immutable artifacts: published data first and manifest last, read back with verified hashes.

Layout, below `s3://<bucket>/<prefix>/`:

    <kind>/<name>/<fingerprint>/manifest.json             exists = the artifact is complete
    <kind>/<name>/<fingerprint>/<attempt>/<file>          data; one folder per attempt to build it
    _aliases/<kind>/<name>/<alias>.json                   pointers
    _partial/<kind>/<name>/<fingerprint>/<key>            resumable work of unfinished stages

Two builders of the same artifact never write over each other's data: whoever writes the manifest
last decides which attempt is the artifact, and both attempts are whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from pipeline_lib.artifacts.aliases import Aliases
from pipeline_lib.artifacts.manifest import (
    FINGERPRINT_LENGTH,
    KINDS,
    MANIFEST_FILE,
    ArtifactKind,
    ArtifactRef,
    FileEntry,
    Manifest,
)
from pipeline_lib.artifacts.object_store import ObjectStore, sha256_file
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ObjectNotFoundError,
    PreconditionFailedError,
)
from pipeline_lib.settings import Settings

LATEST = "latest"
CHAMPION = "champion"
_ATTEMPT_LENGTH = 12
_SHORTEST_PREFIX = 4


class ArtifactStore:
    """The artifacts of one bucket and prefix."""

    def __init__(self, settings: Settings) -> None:
        self.objects = ObjectStore(settings)
        self.aliases = Aliases(self.objects, settings.home / "locks")
        self._cache = settings.artifact_cache

    def uri(self, ref: ArtifactRef) -> str:
        """The `s3://` address of an artifact."""
        return self.objects.uri(ref.key)

    def file_uri(self, ref: ArtifactRef, path: str) -> str:
        """The `s3://` address of one of its files.

        Raises:
            ArtifactNotFoundError: there is no such artifact.
        """
        return self.objects.uri(f"{ref.key}/{self.manifest(ref).attempt}/{path}")

    def find(self, ref: ArtifactRef) -> Manifest | None:
        """The manifest if the artifact is complete, else `None`.

        Raises:
            ArtifactCorruptError: there is a manifest that cannot be read.
        """
        try:
            data = self.objects.get_bytes(f"{ref.key}/{MANIFEST_FILE}")
        except ObjectNotFoundError:
            return None
        try:
            manifest = Manifest.model_validate_json(data)
        except ValidationError as error:
            raise ArtifactCorruptError(
                f"The manifest of {self.uri(ref)} cannot be read: {error.errors()[0]['msg']}",
                hint="Delete that manifest.json to have the stage run again.",
            ) from error
        if manifest.ref != ref:
            raise ArtifactCorruptError(f"The manifest at {self.uri(ref)} belongs to {manifest.ref}")
        return manifest

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The manifest of a complete artifact.

        Raises:
            ArtifactNotFoundError: there is none.
        """
        found = self.find(ref)
        if found is None:
            raise ArtifactNotFoundError(
                f"There is no complete artifact {ref} in {self.objects.uri('')}",
                hint="'raftline show' lists what there is.",
            )
        return found

    def directory(self, ref: ArtifactRef) -> Path:
        """A local copy of all files, every one checked against the manifest. Do not write to it.

        Raises:
            ArtifactNotFoundError: the artifact, or a file of it, is missing.
            ArtifactCorruptError: a file's size or SHA-256 is not what the manifest says.
        """
        manifest = self.manifest(ref)
        return self._fetch(manifest, manifest.files)

    def file(self, manifest: Manifest, path: str) -> Path | None:
        """A local copy of one file; `None` if the artifact has none of that name.

        Raises:
            ArtifactNotFoundError, ArtifactCorruptError: as `directory`.
        """
        entries = [entry for entry in manifest.files if entry.path == path]
        return self._fetch(manifest, entries) / path if entries else None

    def _fetch(self, manifest: Manifest, entries: Iterable[FileEntry]) -> Path:
        folder = self._cache / manifest.ref.key / manifest.attempt
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._cache / f"{manifest.ref.fingerprint}.lock"):
            for entry in entries:
                self._ensure_file(manifest, entry, folder / entry.path)
        return folder

    def _ensure_file(self, manifest: Manifest, entry: FileEntry, local: Path) -> None:
        if local.is_file() and _matches(local, entry):
            return
        key = f"{manifest.ref.key}/{manifest.attempt}/{entry.path}"
        try:
            self.objects.get_file(key, local)
        except ObjectNotFoundError as error:
            raise ArtifactNotFoundError(
                f"{self.objects.uri(key)} is missing although its manifest lists it",
                hint=f"Delete {manifest.ref.key}/{MANIFEST_FILE} to have the stage run again.",
            ) from error
        if not _matches(local, entry):
            found = f"{local.stat().st_size} bytes, SHA-256 {sha256_file(local)}"
            local.unlink()
            raise ArtifactCorruptError(
                f"{self.objects.uri(key)} is not what its manifest says: {found} instead of "
                f"{entry.size_bytes} bytes, SHA-256 {entry.sha256}",
                hint=f"Delete {manifest.ref.key}/{MANIFEST_FILE} to have the stage run again.",
            )

    def link(self, ref: ArtifactRef, path: str, *, valid_seconds: int, content_type: str) -> str:
        """A browser's address of one file of an artifact; see `ObjectStore.presigned_url`.

        Raises:
            ArtifactNotFoundError: there is no such artifact.
        """
        key = f"{ref.key}/{self.manifest(ref).attempt}/{path}"
        return self.objects.presigned_url(
            key, valid_seconds=valid_seconds, content_type=content_type
        )

    def publish(self, directory: Path, record: dict[str, Any]) -> Manifest:
        """Upload every file in `directory`, then the manifest.

        Args:
            directory: the finished output.
            record: the fields of `Manifest` except `attempt` and `files`.

        Returns:
            The manifest that is in the store afterwards: ours, or that of another builder of the
            same artifact who was faster (its data then stands, and ours is deleted).
        """
        attempt = uuid.uuid4().hex[:_ATTEMPT_LENGTH]
        ref: ArtifactRef = record["ref"]
        entries = []
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            name = path.relative_to(directory).as_posix()
            entries.append(
                FileEntry(path=name, size_bytes=path.stat().st_size, sha256=sha256_file(path))
            )
            self.objects.put_file(f"{ref.key}/{attempt}/{name}", path)
        manifest = Manifest(attempt=attempt, files=tuple(entries), **record)
        try:
            self.objects.put_bytes(
                f"{ref.key}/{MANIFEST_FILE}",
                manifest.model_dump_json(indent=1).encode(),
                if_absent=True,
            )
        except PreconditionFailedError:
            self.objects.delete(f"{ref.key}/{attempt}/{entry.path}" for entry in entries)
            return self.manifest(ref)
        return manifest

    def invalidate(self, ref: ArtifactRef) -> None:
        """Delete the manifest, so that the artifact counts as not built."""
        self.objects.delete([f"{ref.key}/{MANIFEST_FILE}"])

    def partial(self, ref: ArtifactRef) -> PartialWork:
        """The resumable work towards an artifact that is not complete yet."""
        return PartialWork(self.objects, ref)

    def alias(self, kind: ArtifactKind, name: str, alias: str) -> ArtifactRef | None:
        """Where an alias points, or `None`."""
        return self.aliases.get(kind, name, alias)

    def set_alias(
        self, alias: str, ref: ArtifactRef, *, expected: Any = Aliases.ANY, reason: str = ""
    ) -> ArtifactRef | None:
        """Move an alias to a complete artifact; see `Aliases.set`."""
        self.manifest(ref)
        return self.aliases.set(alias, ref, expected=expected, reason=reason)

    def resolve(self, text: str) -> ArtifactRef:
        """Read `kind/name@alias`, `kind/name/fingerprint`, or a unique start of a fingerprint.

        Raises:
            ConfigError: the text has none of these forms.
            ArtifactNotFoundError: nothing, or more than one artifact, matches.
        """
        text = text.strip()
        kind, _, rest = text.partition("/")
        name, at, alias = rest.partition("@")
        if kind not in KINDS or not name:
            return ArtifactRef.parse(text)
        if at:
            ref = self.alias(kind, name, alias)  # type: ignore[arg-type]
            if ref is None:
                known = ", ".join(self.aliases.of(kind, name)) or "none"  # type: ignore[arg-type]
                raise ArtifactNotFoundError(
                    f"There is no {kind} {name!r} with the alias {alias!r} (aliases: {known})",
                    hint="'raftline show' lists what there is.",
                )
            return ref
        name, _, start = rest.partition("/")
        if len(start) == FINGERPRINT_LENGTH:
            return ArtifactRef.parse(text)
        if len(start) < _SHORTEST_PREFIX:
            return ArtifactRef.parse(text)
        matches = [r for r in self.refs(kind, name) if r.fingerprint.startswith(start)]
        if len(matches) != 1:
            raise ArtifactNotFoundError(
                f"{len(matches)} artifacts match {text!r}",
                hint="'raftline show' lists what there is.",
            )
        return matches[0]

    def refs(self, kind: str | None = None, name: str | None = None) -> list[ArtifactRef]:
        """Complete artifacts, by kind, name and fingerprint."""
        return [manifest.ref for manifest in self.manifests(kind, name)]

    def manifests(self, kind: str | None = None, name: str | None = None) -> Iterator[Manifest]:
        """Manifests of the complete artifacts, by kind, name and fingerprint."""
        for each_kind in (kind,) if kind else KINDS:
            names = (name,) if name else self.objects.list_folders(f"{each_kind}/")
            for each_name in names:
                for mark in self.objects.list_folders(f"{each_kind}/{each_name}/"):
                    manifest = self.find(ArtifactRef.parse(f"{each_kind}/{each_name}/{mark}"))
                    if manifest is not None:
                        yield manifest

    def children(self, ref: ArtifactRef) -> list[ArtifactRef]:
        """The artifacts made directly from this one. Reads every manifest."""
        return [m.ref for m in self.manifests() if ref.key in m.inputs.values()]

    def parents(self, ref: ArtifactRef) -> dict[str, ArtifactRef]:
        """Role to artifact: what this one was made from."""
        return self.manifest(ref).input_refs


def _matches(path: Path, entry: FileEntry) -> bool:
    return path.stat().st_size == entry.size_bytes and sha256_file(path) == entry.sha256
