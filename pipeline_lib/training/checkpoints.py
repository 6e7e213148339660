"""Training checkpoints in S3: complete or invisible, the last few and the best kept.

    checkpoints/00000040/<file>.<start of its SHA-256>   content
    checkpoints/00000040/part-0.json                     files of node 0, with their hashes
    checkpoints/00000040/best                            only of one whose validation was the best
    checkpoints/00000040/complete.json                   written last: format and number of parts

Objects are named by what they hold, so that two runs of the same training do not spoil each other's
checkpoints, and every file is compared with its hash when it is fetched.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.object_store import sha256_file
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import ArtifactCorruptError
from pipeline_lib.training.plan import checkpoint_folder

logger = logging.getLogger(__name__)

FORMAT = 2
"""Of the files; a checkpoint of another format is passed over."""

_ROOT = "checkpoints/"
_LIST_FILE = "complete.json"
_BEST_MARK = "best"
_POLL_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 300.0


def upload_checkpoint(
    partial: PartialWork,
    folder: Path,
    step: int,
    *,
    is_best: bool = False,
    keep_last: int = 2,
    node: int = 0,
    num_nodes: int = 1,
    is_gone: Callable[[int], bool] = lambda _node: False,
) -> None:
    """Store a finished checkpoint, then forget all but the newest `keep_last` and the best.

    Args:
        partial: of the model that is trained.
        folder: what this machine has of it.
        step: whose state it is.
        is_best: whether its validation is the best so far.
        keep_last: complete checkpoints to keep, besides the newest best one.
        node: number of this machine.
        num_nodes: machines that have a part of it; the others call `upload_part`.
        is_gone: whether one of them will store nothing any more. If its part is missing then, the
            checkpoint stays incomplete: that is for the training to fail of, not for its storing.

    Raises:
        ArtifactCorruptError: another node's part did not come for minutes.
    """
    upload_part(partial, folder, step, node=node)
    for each in range(num_nodes):
        if not _comes(partial, step, each, is_gone):
            logger.warning(
                "The checkpoint of step %d stays incomplete: node %d is gone", step, each
            )
            return
    if is_best:
        partial.put(_root(step) + _BEST_MARK, b"")
    done = {"format": FORMAT, "num_parts": num_nodes}
    partial.put(_root(step) + _LIST_FILE, json.dumps(done).encode())
    _forget(partial, keep_last)


def upload_part(partial: PartialWork, folder: Path, step: int, *, node: int) -> None:
    """Store what a node has of a checkpoint."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name, sha256 = path.relative_to(folder).as_posix(), sha256_file(path)
        partial.put_file(_root(step) + _object_name(name, sha256), path)
        files[name] = sha256
    partial.put(_root(step) + _part_file(node), json.dumps(files, indent=1).encode())


def complete_steps(partial: PartialWork) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    return _steps_with(partial.keys(_ROOT), _LIST_FILE)


def best_step(partial: PartialWork) -> int | None:
    """The step of the complete checkpoint with the best validation, if any was marked."""
    keys = partial.keys(_ROOT)
    best = set(_steps_with(keys, _BEST_MARK)) & set(_steps_with(keys, _LIST_FILE))
    return max(best, default=None)


def fetch_latest_checkpoint(partial: PartialWork, into: Path) -> tuple[Path, int] | None:
    """Bring the newest intact checkpoint to `into`; a damaged one is passed over with a warning.

    Returns:
        Its folder and step, or `None` when there is no usable checkpoint.
    """
    for step in reversed(complete_steps(partial)):
        folder = into / f"resume-{step}"
        if fetch_checkpoint(partial, step, folder):
            return folder, step
    return None


def fetch_best_checkpoint(partial: PartialWork, into: Path) -> None:
    """Bring the best checkpoint, if there is one, to where its ranks would have left it."""
    best = best_step(partial)
    if best is not None:
        fetch_checkpoint(partial, best, into / checkpoint_folder(best))


def fetch_checkpoint(partial: PartialWork, step: int, folder: Path) -> bool:
    """Bring one checkpoint to `folder`; `False`, with a warning, when it is not intact."""
    try:
        _fetch(partial, _root(step), folder)
    except ArtifactCorruptError as error:
        logger.warning("The checkpoint of step %d is passed over: %s", step, error)
        return False
    return True


def _fetch(partial: PartialWork, root: str, folder: Path) -> None:
    done = _read(partial, root + _LIST_FILE)
    if done.get("format") != FORMAT:
        raise ArtifactCorruptError(f"it has another format than {FORMAT}")
    for node in range(done["num_parts"]):
        for name, sha256 in _read(partial, root + _part_file(node)).items():
            key, local = root + _object_name(name, sha256), folder / name
            if not partial.get_file(key, local):
                raise ArtifactCorruptError(f"{key} is missing")
            if sha256_file(local) != sha256:
                raise ArtifactCorruptError(f"{key} does not have the SHA-256 it was stored with")


def _read(partial: PartialWork, key: str) -> dict[str, Any]:
    content = partial.get(key)
    if content is None:
        raise ArtifactCorruptError(f"{key} is missing")
    read: dict[str, Any] = json.loads(content)
    return read


def _comes(partial: PartialWork, step: int, node: int, is_gone: Callable[[int], bool]) -> bool:
    """Wait for a node's part; `False`: it will not come."""
    deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
    while True:
        is_last_look = is_gone(node)
        if partial.get(_root(step) + _part_file(node)) is not None:
            return True
        if is_last_look:
            return False
        if time.monotonic() > deadline:
            raise ArtifactCorruptError(
                f"Node {node} did not store its part of the checkpoint of step {step} within "
                f"{_LONGEST_WAIT_SECONDS:.0f} s",
                hint="See the log of `raftline join` on that machine.",
            )
        time.sleep(_POLL_SECONDS)


def _forget(partial: PartialWork, keep_last: int) -> None:
    """Delete what is not kept, also remains of uploads that never ended."""
    keys = partial.keys(_ROOT)
    complete = _steps_with(keys, _LIST_FILE)
    kept = set(complete[-keep_last:])
    best = set(_steps_with(keys, _BEST_MARK)) & set(complete)
    kept |= {max(best)} if best else set()
    for step in sorted({_step_of(key) for key in keys} - kept):
        if step > max(kept):
            continue  # another run of this training may be storing it now
        partial.delete(_root(step) + _LIST_FILE)  # first: never complete but partly gone
        partial.delete(_root(step))


def _steps_with(keys: Sequence[str], name: str) -> list[int]:
    return sorted(_step_of(key) for key in keys if key.endswith(f"/{name}"))


def _step_of(key: str) -> int:
    return int(key.removeprefix(_ROOT).partition("/")[0])


def _root(step: int) -> str:
    return f"{_ROOT}{step:08d}/"


def _part_file(node: int) -> str:
    return f"part-{node}.json"


def _object_name(name: str, sha256: str) -> str:
    return f"{name}.{sha256[:16]}"
