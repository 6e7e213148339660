"""Aliases: small mutable pointers (`champion`, `latest`, …) to immutable artifacts.

An alias is moved by a conditional write. Servers that ignore conditions (rclone does) are covered
as well as can be: writers on one machine take turns by a file lock, and the value read last is
compared before writing. Every move is kept in the alias's history.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline_lib.artifacts.manifest import ArtifactKind, ArtifactRef
from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.errors import (
    AliasConflictError,
    ArtifactCorruptError,
    ConfigError,
    ObjectNotFoundError,
    PreconditionFailedError,
)

_ALIAS_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HISTORY_LIMIT = 100
_ANY = object()


@dataclass(frozen=True)
class AliasMove:
    """One entry of an alias's history."""

    ref: ArtifactRef
    moved_at: str
    """UTC, ISO 8601."""
    reason: str


class Aliases:
    """The aliases of one store."""

    ANY: Any = _ANY
    """For `expected=`: whatever the alias points to now."""

    def __init__(self, objects: ObjectStore, lock_folder: Path) -> None:
        self._objects = objects
        self._lock_folder = lock_folder

    def get(self, kind: ArtifactKind, name: str, alias: str) -> ArtifactRef | None:
        """Where the alias points, or `None`."""
        history = self._read(kind, name, alias)[0]
        return history[0].ref if history else None

    def history(self, kind: ArtifactKind, name: str, alias: str) -> list[AliasMove]:
        """All moves, newest first (at most 100)."""
        return self._read(kind, name, alias)[0]

    def set(
        self, alias: str, ref: ArtifactRef, *, expected: Any = _ANY, reason: str = ""
    ) -> ArtifactRef | None:
        """Point the alias to `ref` and return where it pointed before.

        Args:
            alias: its name.
            ref: the new target; its kind and name say whose alias it is.
            expected: the target that the caller saw (`None`: no alias yet); `Aliases.ANY` to
                move it from wherever it is.
            reason: kept in the history.

        Raises:
            AliasConflictError: the alias was not, or no longer, at `expected`.
        """
        if not _ALIAS_PATTERN.fullmatch(alias):
            raise ConfigError(
                f"{alias!r} is not an alias name",
                hint="Use lower-case letters, digits and dashes, starting with a letter.",
            )
        lock = self._lock_folder / f"{ref.kind}--{ref.name}--{alias}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=60):
            history, etag = self._read(ref.kind, ref.name, alias)
            current = history[0].ref if history else None
            if expected is not _ANY and current != expected:
                raise _conflict(ref, alias, expected, current)
            if current == ref:
                return current
            move = AliasMove(ref, datetime.now(UTC).isoformat(timespec="seconds"), reason)
            moves = [move, *history][:_HISTORY_LIMIT]
            body = json.dumps([{**vars(m), "ref": m.ref.key} for m in moves], indent=1).encode()
            key = _key(ref.kind, ref.name, alias)
            try:
                self._objects.put_bytes(key, body, if_match=etag, if_absent=etag is None)
            except (PreconditionFailedError, ObjectNotFoundError) as error:
                raise _conflict(ref, alias, current, "another target") from error
            return current

    def of(self, kind: ArtifactKind, name: str) -> dict[str, ArtifactRef]:
        """All aliases of one artifact name."""
        prefix = f"_aliases/{kind}/{name}/"
        keys = [info.key for info in self._objects.scan(prefix)]
        names = [key.removeprefix(prefix).removesuffix(".json") for key in keys]
        found = {alias: self.get(kind, name, alias) for alias in names}
        return {alias: ref for alias, ref in found.items() if ref is not None}

    def _read(
        self, kind: ArtifactKind, name: str, alias: str
    ) -> tuple[list[AliasMove], str | None]:
        key = _key(kind, name, alias)
        try:
            data, etag = self._objects.get_with_etag(key)
        except ObjectNotFoundError:
            return [], None
        try:
            moves = [
                AliasMove(ArtifactRef.parse(m["ref"]), m["moved_at"], m["reason"])
                for m in json.loads(data)
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactCorruptError(
                f"The alias {self._objects.uri(key)} cannot be read: {error}",
                hint="Delete that object and set the alias again.",
            ) from error
        return moves, etag


def _key(kind: str, name: str, alias: str) -> str:
    return f"_aliases/{kind}/{name}/{alias}.json"


def _conflict(ref: ArtifactRef, alias: str, expected: object, found: object) -> AliasConflictError:
    return AliasConflictError(
        f"The alias {ref.kind}/{ref.name}@{alias} was expected at {expected or 'nothing'} "
        f"but is at {found or 'nothing'}",
        hint="Somebody moved it in between: look at it again and decide anew.",
    )
