"""Archives and tables are opened in a process of their own: what kills it costs one file.

They are read by code that was written for files of friends. Plain files and JSON Lines need no such
care; they are examined where the scan runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.config import IngestConfig
from pipeline_lib.config.corpus import IngestLimits, RecordColumns
from pipeline_lib.corpus.drops import DropReason, make_drop
from pipeline_lib.corpus.sandbox import Crashed, Done, OutOfMemory, SandboxPool, TimedOut
from pipeline_lib.corpus.sources.base import Examined
from pipeline_lib.corpus.sources.cache import LocalCache
from pipeline_lib.corpus.sources.containers import HEAD_BYTES, is_foreign
from pipeline_lib.corpus.sources.examining import Examiner
from pipeline_lib.corpus.sources.files import LocalFile
from pipeline_lib.corpus.sources.locators import FileLocator, locator_adapter
from pipeline_lib.corpus.sources.stamps import examined_from_dict, examined_to_dict

TIMES_LONGER = 10
"""An archive or a table may take so many times as long as one document."""


class FileExaminer(Protocol):
    """See `Examiner`."""

    def examine(self, file: LocalFile) -> list[Examined]:
        """The inputs in a file."""

    def examine_copy(self, file: LocalFile) -> list[Examined]:
        """The inputs in a temporary copy, which is gone afterwards."""


class IsolatedExaminer:
    """An `Examiner` whose process may die; a context manager.

    Args:
        cache: as of `Examiner`.
        config: limits and columns of records.
    """

    def __init__(self, cache: LocalCache, config: IngestConfig) -> None:
        self._own = Examiner(cache, config.limits, config.records)
        options = {
            "folder": str(cache.folder),
            "limits": config.limits.model_dump(mode="json"),
            "columns": config.records.model_dump(mode="json"),
        }
        self._pool = SandboxPool(
            f"{__name__}:make_examiner",
            canonical_json(options),
            num_workers=1,
            max_seconds=TIMES_LONGER * config.limits.max_seconds,
            max_memory_bytes=config.limits.max_memory_bytes,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.close()

    def examine(self, file: LocalFile) -> list[Examined]:
        """As `Examiner.examine`; what became of the process may be a drop."""
        if _is_foreign(file):
            return self._ask(file, is_copy=False)
        return self._own.examine(file)

    def examine_copy(self, file: LocalFile) -> list[Examined]:
        """As `Examiner.examine_copy`; what became of the process may be a drop."""
        if not _is_foreign(file):
            return self._own.examine_copy(file)
        try:
            return self._ask(file, is_copy=True)
        finally:
            file.path.unlink(missing_ok=True)

    def _ask(self, file: LocalFile, *, is_copy: bool) -> list[Examined]:
        payload = canonical_json({"file": _file_to_dict(file), "is_copy": is_copy})
        ((_, outcome),) = self._pool.map([(file.uri, payload)])
        match outcome:
            case Done(data):
                return _read_answer(data)
            case TimedOut(seconds):
                reason, detail = DropReason.TIMED_OUT, f"could not be opened within {seconds:g} s"
            case OutOfMemory():
                reason, detail = DropReason.OUT_OF_MEMORY, "could not be opened in the memory given"
            case Crashed(what):
                reason, detail = DropReason.PARSER_CRASHED, f"could not be opened: {what}"
        return [make_drop(file.uri, reason, detail)]


def make_examiner(argument: bytes) -> Callable[[bytes], bytes]:
    """The function that the process runs."""
    options = json.loads(argument)
    examiner = Examiner(
        LocalCache(Path(options["folder"])),
        IngestLimits.model_validate(options["limits"]),
        RecordColumns.model_validate(options["columns"]),
    )

    def examine(payload: bytes) -> bytes:
        request = json.loads(payload)
        run = examiner.examine_copy if request["is_copy"] else examiner.examine
        try:
            found = run(_file_from_dict(request["file"]))
        except OSError as error:
            return canonical_json({"errno": error.errno, "text": error.strerror or str(error)})
        return canonical_json({"found": [examined_to_dict(item) for item in found]})

    return examine


def _read_answer(data: bytes) -> list[Examined]:
    answer = json.loads(data)
    if "found" not in answer:
        raise OSError(answer["errno"], answer["text"])
    return [examined_from_dict(fields) for fields in answer["found"]]


def _is_foreign(file: LocalFile) -> bool:
    with file.path.open("rb") as stream:
        return is_foreign(file.name, stream.read(HEAD_BYTES))


def _file_to_dict(file: LocalFile) -> dict[str, Any]:
    return {
        "uri": file.uri,
        "name": file.name,
        "path": FileLocator.of(file.path).path,
        "locator": file.locator.model_dump(mode="json"),
        "sha256": file.sha256,
        "media_type": file.media_type,
        "metadata": dict(file.metadata),
    }


def _file_from_dict(fields: dict[str, Any]) -> LocalFile:
    path = FileLocator(path=fields["path"]).to_path()
    locator = locator_adapter.validate_python(fields["locator"])
    return LocalFile(**{**fields, "path": path, "locator": locator})
