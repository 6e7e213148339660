"""What changed: this corpus's inputs against those of the corpus before, and what can be kept.

The documents of an input are a function of its key (content, URI, what the source says of it) and
of the processing key. Where both are as before, they are taken from the corpus before, copies that
were dropped included; deduplication then judges them anew. A corpus made on top of another is so
equal, byte for byte, to one made from nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest, canonical_json
from pipeline_lib.artifacts.store import LATEST, ArtifactStore
from pipeline_lib.corpus.drops import DropReason
from pipeline_lib.corpus.processed import ProcessedDocument, ProcessedInput
from pipeline_lib.corpus.row_access import GroupedRows
from pipeline_lib.corpus.schema import (
    CHUNKS_FILE,
    DOCUMENTS_FILE,
    DROPS_FILE,
    DUPLICATES_FILE,
    SNAPSHOT_FILE,
    Chunk,
    Drop,
    SnapshotEntry,
    chunk_from_row,
    document_from_row,
    read_rows,
)
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.corpus.sources.locators import source_input_to_dict
from pipeline_lib.errors import ArtifactError

logger = logging.getLogger(__name__)

PROCESSING_DETAIL = "processing_key"
"""Field of `Manifest.details` with the processing key."""

ADDED, CHANGED, UNCHANGED, REMOVED = "added", "changed", "unchanged", "removed"
_COPIES = frozenset({DropReason.DUPLICATE, DropReason.NEAR_DUPLICATE, DropReason.DUPLICATE_URI})
_NOT_REPEATABLE = frozenset(reason.value for reason in DropReason if not reason.is_repeatable)
_KEY_LENGTH = 32


def input_key(item: SourceInput) -> str:
    """Hash of an input as the parsers see it; where it lies does not count."""
    fields = source_input_to_dict(item)
    del fields["locator"]
    return hashlib.sha256(canonical_json(fields)).hexdigest()[:_KEY_LENGTH]


class PreviousCorpus:
    """The corpus that was made last under a name: its inputs, and the documents they became."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.ref: ArtifactRef = manifest.ref
        self.processing: str = manifest.details.get(PROCESSING_DETAIL, "")
        self._folder = folder
        self.entries: dict[str, SnapshotEntry] = {
            row["input_uri"]: SnapshotEntry(**row)
            for row in read_rows(folder / SNAPSHOT_FILE)
            if row["change"] != REMOVED
        }
        self._files: dict[str, GroupedRows] = {}

    @classmethod
    def find(cls, artifacts: ArtifactStore, name: str) -> PreviousCorpus | None:
        """The corpus at `<name>@latest`, if there is one and it can be read.

        One that cannot be read costs time, not the run: everything is parsed again.
        """
        ref = artifacts.alias("corpus", name, LATEST)
        if ref is None:
            return None
        try:
            manifest = artifacts.manifest(ref)
            if SNAPSHOT_FILE not in {file.path for file in manifest.files}:
                return None
            return cls(manifest, artifacts.directory(ref))
        except ArtifactError as error:
            logger.warning("The corpus before cannot be read, all is parsed anew: %s", error)
            return None

    def reusable(self, inputs: Iterable[SourceInput], processing: str) -> frozenset[str]:
        """URIs of those inputs whose documents are as they would become now.

        An input that lost something by accident (a time limit, a crash) gets another chance.
        """
        if self.processing != processing:
            return frozenset()
        unlucky = {
            row["input_uri"]
            for row in read_rows(self._folder / DROPS_FILE, ["input_uri", "reason"])
            if row["reason"] in _NOT_REPEATABLE
        }
        return frozenset(
            item.uri
            for item in inputs
            if item.uri not in unlucky
            and (before := self.entries.get(item.uri)) is not None
            and before.input_key == input_key(item)
        )

    def processed(self, input_uri: str) -> ProcessedInput:
        """What an input became, as a parser process would answer."""
        kept = [
            ProcessedDocument(document_from_row(row), self._chunks(row["document_id"]))
            for row in self._rows(DOCUMENTS_FILE, "input_uri", input_uri)
        ]
        copies = [
            ProcessedDocument(document_from_row(row), None)
            for row in self._rows(DUPLICATES_FILE, "input_uri", input_uri)
        ]
        drops = [
            Drop(**row)
            for row in self._rows(DROPS_FILE, "input_uri", input_uri)
            if row["reason"] not in _COPIES
        ]
        documents = sorted(kept + copies, key=lambda each: each.document.input_ordinal)
        return ProcessedInput(tuple(documents), tuple(drops))

    def _chunks(self, document_id: str) -> tuple[Chunk, ...]:
        return tuple(map(chunk_from_row, self._rows(CHUNKS_FILE, "document_id", document_id)))

    def _rows(self, file: str, column: str, value: str) -> list[dict[str, Any]]:
        if file not in self._files:
            self._files[file] = GroupedRows(self._folder / file, column)
        return self._files[file].rows(value)


def compare(
    inputs: Iterable[SourceInput], before: Mapping[str, SnapshotEntry]
) -> Iterator[SnapshotEntry]:
    """The snapshot: this corpus's inputs in order, then those that are gone, by URI."""
    seen = set()
    for item in inputs:
        seen.add(item.uri)
        last = before.get(item.uri)
        if last is None:
            change = ADDED
        else:
            change = UNCHANGED if last.content_sha256 == item.content_sha256 else CHANGED
        yield SnapshotEntry(
            input_uri=item.uri,
            content_sha256=item.content_sha256,
            size_bytes=item.size_bytes,
            change=change,
            input_key=input_key(item),
        )
    for uri in sorted(before.keys() - seen):
        last = before[uri]
        yield SnapshotEntry(**{**vars(last), "change": REMOVED})


def change_counts(changes: Counter[str]) -> dict[str, int]:
    """`num_added`, `num_changed`, `num_unchanged`, `num_removed`: inputs, for the manifest."""
    return {f"num_{change}": changes[change] for change in (ADDED, CHANGED, UNCHANGED, REMOVED)}
