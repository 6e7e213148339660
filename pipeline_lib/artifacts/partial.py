"""Resumable work of a stage that has not finished: small objects beside the artifact-to-be.

They live under `_partial/<kind>/<name>/<fingerprint>/`, so they belong to exactly one
configuration and its inputs, and go when the artifact is published.
"""

from __future__ import annotations

from pathlib import Path

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.errors import ObjectNotFoundError


class PartialWork:
    """A key-value view of one unfinished artifact's partial work."""

    def __init__(self, objects: ObjectStore, ref: ArtifactRef) -> None:
        self._objects = objects
        self._root = f"_partial/{ref.key}/"

    def put(self, key: str, data: bytes) -> None:
        """Store a result; overwriting is allowed."""
        self._objects.put_bytes(self._root + key, data)

    def get(self, key: str) -> bytes | None:
        """Read a result, or `None` when it is not there."""
        try:
            return self._objects.get_bytes(self._root + key)
        except ObjectNotFoundError:
            return None

    def put_file(self, key: str, path: Path) -> None:
        """Store a file; multipart when large."""
        self._objects.put_file(self._root + key, path)

    def get_file(self, key: str, path: Path) -> bool:
        """Fetch a file to `path`; `False` when it is not there."""
        try:
            self._objects.get_file(self._root + key, path)
        except ObjectNotFoundError:
            return False
        return True

    def keys(self, prefix: str = "") -> list[str]:
        """Keys that start with `prefix`, sorted."""
        return [info.key[len(self._root) :] for info in self._objects.scan(self._root + prefix)]

    def tags(self, prefix: str = "") -> dict[str, str]:
        """The keys that start with `prefix`, each with a tag that changes with its content."""
        found = self._objects.scan(self._root + prefix)
        return {info.key[len(self._root) :]: info.etag for info in found}

    def delete(self, prefix: str = "") -> None:
        """Forget everything whose key starts with `prefix`."""
        self._objects.delete([self._root + key for key in self.keys(prefix)])
