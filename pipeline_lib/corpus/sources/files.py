"""A file on disk that is to be examined, wherever it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.object_store import sha256_file
from pipeline_lib.corpus.sources.locators import AnyLocator, CompressedLocator, FileLocator


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file on this machine's disk that is to be examined."""

    uri: str
    name: str
    """Its suffix helps to tell what it is."""
    path: Path
    locator: AnyLocator
    """Where any machine finds the same content."""
    sha256: str | None = None
    """When it is known already."""
    media_type: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def content_sha256(self) -> str:
        """Of the whole file; read when it is not known."""
        return self.sha256 or sha256_file(self.path)

    def cache_key(self) -> str:
        """What a copy of it in the cache is called; empty when it is found without one."""
        if isinstance(self.locator, FileLocator | CompressedLocator):
            return ""
        return self.content_sha256()
