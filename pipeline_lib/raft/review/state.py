"""Small JSON objects in S3 that several people change: read, changed, written if nobody was faster.

As with aliases, servers that ignore conditional writes (rclone does) are covered as well as can
be: writers on one machine take turns by a file lock. A lost race is no error here, because what is
stored is only ever merged: the change is made again on what the other writer left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from filelock import FileLock
from pydantic import BaseModel, ValidationError

from pipeline_lib.errors import (
    ArtifactCorruptError,
    ObjectNotFoundError,
    PreconditionFailedError,
)
from pipeline_lib.stage import Workspace

State = TypeVar("State", bound=BaseModel)

_ATTEMPTS = 10
_LOCK_SECONDS = 60


def state_key(name: str, file: str) -> str:
    """Where the review state of a pipeline lies; its artifacts come and go, this stays."""
    return f"_state/review/{name}/{file}"


def read_state(ws: Workspace, key: str, empty: State) -> State:
    """The object's content; `empty` while there is none.

    Raises:
        ArtifactCorruptError: it is something else.
    """
    return _read(ws, key, empty)[0]


def change_state(
    ws: Workspace, key: str, empty: State, change: Callable[[State], State | None]
) -> None:
    """Write what `change` makes of the present content.

    Args:
        ws: live services.
        key: which object.
        empty: the content while there is no object.
        change: from the content to the new one; `None` leaves it as it is. Called again with newer
            content when another writer was faster.

    Raises:
        ArtifactCorruptError: the object's content is something else.
        PreconditionFailedError: others were faster ten times in a row.
    """
    objects = ws.artifacts.objects
    lock = ws.settings.home / "locks" / f"{key.replace('/', '--')}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=_LOCK_SECONDS):
        for _ in range(_ATTEMPTS):
            before, etag = _read(ws, key, empty)
            after = change(before)
            if after is None:
                return
            data = f"{after.model_dump_json(indent=1)}\n".encode()
            try:
                objects.put_bytes(key, data, if_match=etag, if_absent=etag is None)
            except (PreconditionFailedError, ObjectNotFoundError):
                continue
            return
    raise PreconditionFailedError(
        f"{objects.uri(key)} was changed by others {_ATTEMPTS} times while it was being written",
        hint="Try again when they are done.",
    )


def _read(ws: Workspace, key: str, empty: State) -> tuple[State, str | None]:
    """Content and ETag."""
    objects = ws.artifacts.objects
    try:
        data, etag = objects.get_with_etag(key)
    except ObjectNotFoundError:
        return empty, None
    try:
        return type(empty).model_validate_json(data), etag
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False)
        where = ".".join(map(str, first["loc"]))
        raise ArtifactCorruptError(
            f"{objects.uri(key)} cannot be read: {where}: {first['msg']}",
            hint="Restore that object from a version before. If there is none, delete it and "
            "import the reviewers' files again.",
        ) from error
