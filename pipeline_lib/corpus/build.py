"""From processed inputs, in the order of the scan, to the files of the corpus artifact.

This is the one place where documents meet, so copies are found here: whichever machine parsed
what, the first of a group in the order of the scan is kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.config.corpus import DeduplicationConfig
from pipeline_lib.corpus.deduplication import Deduplicator
from pipeline_lib.corpus.drops import DropTally, remedy_of
from pipeline_lib.corpus.processed import ProcessedDocument, ProcessedInput
from pipeline_lib.corpus.schema import (
    CHUNK_SCHEMA,
    CHUNKS_FILE,
    DOCUMENT_SCHEMA,
    DOCUMENTS_FILE,
    DROP_SCHEMA,
    DROPS_FILE,
    DUPLICATES_FILE,
    SNAPSHOT_FILE,
    SNAPSHOT_SCHEMA,
    Chunk,
    Document,
    Drop,
    SnapshotEntry,
)
from pipeline_lib.corpus.snapshot import compare
from pipeline_lib.corpus.sources.base import SourceScan
from pipeline_lib.corpus.writing import ParquetWriter
from pipeline_lib.progress import Progress, phase

if TYPE_CHECKING:
    from pipeline_lib.corpus.chunking import Chunker


@dataclass(kw_only=True)
class CorpusSummary:
    """What became of the inputs. `num_inputs == num_documents + dropped.total()`, always.

    An input, here, is a document or what failed to become one: a record counts, not the file that
    holds a million of them.
    """

    num_inputs: int = 0
    num_documents: int = 0
    num_chunks: int = 0
    num_chunk_tokens: int = 0
    """With overlap, shared tokens count in each chunk that has them."""
    largest_chunk_tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    """How the documents' bytes were read: a surprise here explains garbled text."""
    languages: Counter[str] = field(default_factory=Counter)
    """Of documents long enough to tell."""
    media_types: Counter[str] = field(default_factory=Counter)
    redactions: Counter[str] = field(default_factory=Counter)
    """What was taken out of the documents, by kind."""
    changes: Counter[str] = field(default_factory=Counter)
    """Inputs as the sources list them: added, changed, unchanged, removed."""

    def check(self) -> None:
        """Refuse a summary that does not add up.

        Raises:
            AssertionError: an input was lost, or counted twice.
        """
        if self.num_inputs != self.num_documents + self.dropped.total():
            raise AssertionError(
                f"{self.num_inputs} inputs became {self.num_documents} documents and "
                f"{self.dropped.total()} drops"
            )


def build_corpus(
    directory: Path,
    scan: SourceScan,
    processed: Iterable[ProcessedInput],
    *,
    before: Mapping[str, SnapshotEntry],
    chunker: Callable[[], Chunker],
    deduplication: DeduplicationConfig,
    max_dropped_fraction: float,
    progress: Progress,
) -> CorpusSummary:
    """Write the files of the corpus into `directory`.

    Memory holds one input, one row group per file, and the signatures of the documents.

    Args:
        directory: where to.
        scan: what the sources hold.
        processed: what became of each of the scan's inputs, in the same order.
        before: the inputs of the corpus before, by URI.
        chunker: cuts documents that were copies before and now are not; asked for when needed.
        deduplication: what counts as a copy.
        max_dropped_fraction: the largest share of inputs that may be dropped.
        progress: told of each input.

    Raises:
        InputError: no document is left, or an input changed since the scan.
        TooManyDropsError: the share of dropped inputs exceeds `max_dropped_fraction`.
    """
    with ExitStack() as files:
        merger = _Merger(directory, files, Deduplicator(deduplication), chunker)
        for drop in scan.drops:
            merger.add_drop(drop)
        with phase(progress, "Joining", total=len(scan.inputs), unit="inputs"):
            for item in processed:
                merger.add(item)
                progress.advance()
                progress.note(
                    f"{merger.summary.num_documents} documents, {merger.summary.num_chunks} chunks"
                )
        for entry in compare(scan.inputs, before):
            merger.add_entry(entry)
    merger.tally.check(merger.summary.num_documents, max_dropped_fraction)
    merger.summary.check()
    return merger.summary


class _Merger:
    """Sends each document and each drop to its file, and counts it."""

    def __init__(
        self,
        directory: Path,
        files: ExitStack,
        deduplicator: Deduplicator,
        chunker: Callable[[], Chunker],
    ) -> None:
        self.summary = CorpusSummary()
        self.tally = DropTally()
        self.summary.dropped = self.tally.by_reason
        self._deduplicator = deduplicator
        self._chunker = chunker
        self._documents: ParquetWriter[Document] = files.enter_context(
            ParquetWriter(directory / DOCUMENTS_FILE, DOCUMENT_SCHEMA)
        )
        self._chunks: ParquetWriter[Chunk] = files.enter_context(
            ParquetWriter(directory / CHUNKS_FILE, CHUNK_SCHEMA)
        )
        self._drops: ParquetWriter[Drop] = files.enter_context(
            ParquetWriter(directory / DROPS_FILE, DROP_SCHEMA)
        )
        self._copies: ParquetWriter[Document] = files.enter_context(
            ParquetWriter(directory / DUPLICATES_FILE, DOCUMENT_SCHEMA)
        )
        self._snapshot: ParquetWriter[SnapshotEntry] = files.enter_context(
            ParquetWriter(directory / SNAPSHOT_FILE, SNAPSHOT_SCHEMA)
        )

    def add(self, processed: ProcessedInput) -> None:
        """Drops first, whatever order they were found in: it is the same on every way here."""
        for drop in processed.drops:
            self.add_drop(drop)
        for each in processed.documents:
            refusal = self._deduplicator.refuse(each.document)
            if refusal is not None:
                self.add_drop(replace(refusal, input_uri=each.document.input_uri))
                self._copies.write(each.document)
            else:
                self._add_document(each)

    def add_drop(self, drop: Drop) -> None:
        self.summary.num_inputs += 1
        self.tally.add(drop)
        self._drops.write(drop if drop.remedy else replace(drop, remedy=remedy_of(drop.reason)))

    def add_entry(self, entry: SnapshotEntry) -> None:
        self.summary.changes[entry.change] += 1
        self._snapshot.write(entry)

    def _add_document(self, each: ProcessedDocument) -> None:
        summary, document = self.summary, each.document
        summary.num_inputs += 1
        summary.num_documents += 1
        summary.media_types[document.media_type] += 1
        summary.redactions.update(json.loads(document.redactions_json))
        if document.encoding:
            summary.encodings[document.encoding] += 1
        if document.language:
            summary.languages[document.language] += 1
        self._documents.write(document)
        chunks = each.chunks if each.chunks is not None else self._chunker().chunk(document)
        for chunk in chunks:
            self._chunks.write(chunk)
            summary.num_chunks += 1
            summary.num_chunk_tokens += chunk.num_tokens
            summary.largest_chunk_tokens = max(summary.largest_chunk_tokens, chunk.num_tokens)
