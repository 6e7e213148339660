"""Training checkpoints in S3: complete or invisible, the last two kept.

A checkpoint's files are uploaded first and its list of files, with hashes, last. DeepSpeed's own
files are pickles; they are read back only from our store and only if every hash matches, and they
are never published.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from pipeline_lib.artifacts.object_store import sha256_file
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import ArtifactCorruptError

logger = logging.getLogger(__name__)

_ROOT = "checkpoints/"
_LIST_FILE = "complete.json"
_KEEP = 2


def upload_checkpoint(partial: PartialWork, folder: Path, step: int) -> None:
    """Store a finished checkpoint, then forget all but the newest two."""
    root = f"{_ROOT}{step:08d}/"
    hashes = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        partial.put_file(root + name, path)
        hashes[name] = sha256_file(path)
    partial.put(root + _LIST_FILE, json.dumps(hashes, indent=1).encode())
    for old in complete_steps(partial)[:-_KEEP]:
        old_root = f"{_ROOT}{old:08d}/"
        partial.delete(old_root + _LIST_FILE)  # first, so that it is never complete but partly gone
        partial.delete(old_root)


def complete_steps(partial: PartialWork) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    keys = partial.keys(_ROOT)
    return sorted(
        int(key.removeprefix(_ROOT).partition("/")[0])
        for key in keys
        if key.endswith(f"/{_LIST_FILE}")
    )


def fetch_latest_checkpoint(partial: PartialWork, into: Path) -> tuple[Path, int] | None:
    """Bring the newest intact checkpoint to `into`; a damaged one is passed over with a warning.

    Returns:
        Its folder and step, or `None` when there is no usable checkpoint.
    """
    for step in reversed(complete_steps(partial)):
        # The Trainer reads the step from the state file, not from this name.
        folder = into / f"resume-{step}"
        try:
            _fetch(partial, f"{_ROOT}{step:08d}/", folder)
        except ArtifactCorruptError as error:
            logger.warning("The checkpoint of step %d is passed over: %s", step, error)
            continue
        return folder, step
    return None


def _fetch(partial: PartialWork, root: str, folder: Path) -> None:
    listed = partial.get(root + _LIST_FILE)
    if listed is None:
        raise ArtifactCorruptError(f"{root}{_LIST_FILE} vanished while it was read")
    for name, sha256 in json.loads(listed).items():
        local = folder / name
        if not partial.get_file(root + name, local):
            raise ArtifactCorruptError(f"{root}{name} is missing")
        if sha256_file(local) != sha256:
            raise ArtifactCorruptError(f"{root}{name} does not have the SHA-256 it was stored with")
