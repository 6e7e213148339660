"""Folders, files and globs on this machine.

URIs are relative to the source (`file:<folder name>/<relative path>`), so the same corpus has the
same document ids wherever it lies. A glob's URIs are those of the folder before its first wildcard.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.corpus.drops import DropReason, make_drop
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.names import matches, readable
from pipeline_lib.errors import InputError

TRUSTED_AFTER_SECONDS = 2.0
"""A file changed within so short a time before the scan may change again without a new time."""

_WILDCARD = re.compile(r"[*?\[]")
_DATASET_MARKS = frozenset({"state.json", "dataset_info.json"})
_DATASET_DICT = "dataset_dict.json"
_DATASET_CARD = "README.md"
_CARD_KEYS = re.compile(rb"^(dataset_info:|configs:\s*\n\s*- config_name:)", re.MULTILINE)
_CARD_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class FoundFile:
    """A directory entry that may be an input."""

    uri: str
    path: Path


def list_path(source: str) -> list[FoundFile | Drop]:
    """The entries of a folder, a glob or a single file, in order of URI.

    Raises:
        InputError: there is nothing at that path, or nothing that matches.
    """
    if _WILDCARD.search(source) and not _exists(source):
        return _list_glob(source)
    path = _existing_path(source)
    if path.is_dir():
        return _sorted(_walk(path, readable(_name_of(path))))
    return [FoundFile(f"file:{readable(_name_of(path))}", path)]


def check_file(found: FoundFile) -> os.stat_result | Drop:
    """The status of an entry that can be opened, or why it cannot."""
    try:
        status = found.path.stat()
    except OSError as error:
        return unreadable(found.uri, error)
    if not stat.S_ISREG(status.st_mode):
        return make_drop(found.uri, DropReason.NOT_A_FILE, "a pipe, socket or device")
    return status


def file_stamp(path: Path, status: os.stat_result) -> str:
    """Marks that change when the file changes or is another one.

    The change time is among them: it shows an edit whose size and modification time were restored.
    """
    return (
        (
            f"{path.absolute()!s} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} "
            f"{status.st_ino}"
        )
        .encode("utf-8", "backslashreplace")
        .decode()
    )


def is_settled(status: os.stat_result) -> bool:
    """Whether an edit from now on must change the file's times."""
    return time.time() - status.st_mtime > TRUSTED_AFTER_SECONDS


def unreadable(uri: str, error: OSError) -> Drop:
    """The drop for what the operating system refuses."""
    return make_drop(uri, DropReason.UNREADABLE, error.strerror or type(error).__name__)


def _list_glob(pattern: str) -> list[FoundFile | Drop]:
    parts = Path(pattern).expanduser().parts
    first = next(i for i, part in enumerate(parts) if _WILDCARD.search(part))
    base, wanted = _existing_path(str(Path(*parts[:first]))), parts[first:]
    entries = [
        entry
        for entry in _walk(base, readable(_name_of(base)))
        if isinstance(entry, FoundFile) and matches(entry.path.relative_to(base).parts, wanted)
    ]
    if not entries:
        raise InputError(
            f"No file matches the source {pattern!r}",
            hint=f"Paths are read where the ingest task runs: on the worker, in {Path.cwd()}. "
            "'**' stands for any number of folders; hidden files never match.",
        )
    return _sorted(iter(entries))


def _sorted(entries: Iterator[FoundFile | Drop]) -> list[FoundFile | Drop]:
    return sorted(entries, key=lambda e: e.uri if isinstance(e, FoundFile) else e.source_uri)


def _name_of(path: Path) -> str:
    return path.name if path.name not in ("", "..") else path.resolve().name


def _exists(source: str) -> bool:
    try:
        return Path(source).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _existing_path(source: str) -> Path:
    try:
        path = Path(source).expanduser()
        path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # of stat, stat, expanduser
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"The source {source!r} cannot be read on this machine: {reason}",
            hint=f"Paths are read where the ingest task runs: on the worker, in {Path.cwd()}.",
        ) from error
    return path


def _walk(folder: Path, name: str) -> Iterator[FoundFile | Drop]:
    def uri(path: Path) -> str:
        return f"file:{name}/{readable(path.relative_to(folder).as_posix())}"

    refused: list[OSError] = []
    for here, folders, files in os.walk(folder, onerror=refused.append):
        descend = []
        for child in folders:
            path = Path(here, child)
            if child.startswith("."):
                yield _hidden(uri(path))
            elif path.is_symlink():
                detail = "links to folders are not followed"
                yield make_drop(uri(path), DropReason.FOLDER_LINK, detail)
            else:
                descend.append(child)
        folders[:] = descend
        for child in _without_dataset_files(Path(here), files):
            path = Path(here, child)
            yield _hidden(uri(path)) if child.startswith(".") else FoundFile(uri(path), path)
    for error in refused:
        yield unreadable(uri(Path(error.filename)), error)


def _without_dataset_files(folder: Path, files: list[str]) -> list[str]:
    """The files that hold content; a Hugging Face dataset's own bookkeeping is none.

    Saved by `save_to_disk`, a dataset lists its data files in `state.json`; beside them lie caches.
    A repository from the hub has data files and a README.md with their description.
    """
    names = set(files)
    if names >= _DATASET_MARKS:
        listed = _dataset_files(folder / "state.json")
        if listed is not None:
            return listed
    if _DATASET_DICT in names and names <= {_DATASET_DICT, _DATASET_CARD}:
        return []
    if _DATASET_CARD in names and _is_dataset_card(folder / _DATASET_CARD):
        return [file for file in files if file != _DATASET_CARD]
    return files


def _dataset_files(state: Path) -> list[str] | None:
    """The names that the dataset lists, whether or not the files are there."""
    try:
        entries = json.loads(state.read_bytes())["_data_files"]
        return [Path(entry["filename"]).name for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_dataset_card(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            head = stream.read(_CARD_HEAD_BYTES)
    except OSError:
        return False
    if not head.startswith(b"---"):
        return False
    front_matter = head[3:].partition(b"\n---")[0]
    return _CARD_KEYS.search(front_matter) is not None


def _hidden(uri: str) -> Drop:
    return make_drop(uri, DropReason.HIDDEN, "names that begin with a dot are skipped")
