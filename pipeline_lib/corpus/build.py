"""From scanned sources to the three files of the corpus artifact, one input at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.corpus.chunking import Chunker
from pipeline_lib.corpus.documents import Deduplicator, build_document
from pipeline_lib.corpus.drops import DropTally
from pipeline_lib.corpus.parsers import ParsedDocument, parse
from pipeline_lib.corpus.schema import (
    CHUNK_SCHEMA,
    CHUNKS_FILE,
    DOCUMENT_SCHEMA,
    DOCUMENTS_FILE,
    DROP_SCHEMA,
    DROPS_FILE,
    Chunk,
    Document,
    Drop,
)
from pipeline_lib.corpus.sources import SourceScan
from pipeline_lib.corpus.writing import ParquetWriter
from pipeline_lib.progress import Progress, phase


@dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """What became of the inputs. `num_inputs == num_documents + dropped.total()`, always.

    An input is a file, a page of the sample, one line of a JSONL file, or a hidden entry.
    """

    num_inputs: int
    num_documents: int
    num_chunks: int
    num_chunk_tokens: int
    """With overlap, shared tokens count in each chunk that has them."""
    largest_chunk_tokens: int
    dropped: Counter[str]
    encodings: Counter[str]
    """How the documents' bytes were read: a surprise here explains garbled text."""

    def __post_init__(self) -> None:
        if self.num_inputs != self.num_documents + self.dropped.total():
            raise AssertionError(
                f"{self.num_inputs} inputs became {self.num_documents} documents and "
                f"{self.dropped.total()} drops"
            )


def build_corpus(
    directory: Path,
    scan: SourceScan,
    chunker: Chunker,
    *,
    max_dropped_fraction: float,
    progress: Progress,
) -> CorpusSummary:
    """Write documents, chunks and drops into `directory`.

    Memory holds one input, one row group per file and the hashes of the documents.

    Raises:
        InputError: no document is left, or an input changed since the scan.
        TooManyDropsError: the share of dropped inputs exceeds `max_dropped_fraction`.
    """
    tally, deduplicator = DropTally(), Deduplicator()
    encodings: Counter[str] = Counter()
    num_inputs = num_chunk_tokens = largest = 0
    documents = ParquetWriter[Document](directory / DOCUMENTS_FILE, DOCUMENT_SCHEMA)
    chunks = ParquetWriter[Chunk](directory / CHUNKS_FILE, CHUNK_SCHEMA)
    drops = ParquetWriter[Drop](directory / DROPS_FILE, DROP_SCHEMA)
    work = phase(progress, "Parsing and chunking", total=len(scan.inputs), unit="inputs")
    with documents, chunks, drops, work:
        for item in _items(scan, progress):
            num_inputs += 1
            outcome = build_document(item) if isinstance(item, ParsedDocument) else item
            if isinstance(outcome, Document):
                outcome = deduplicator.refuse(outcome) or outcome
            if isinstance(outcome, Drop):
                tally.add(outcome)
                drops.write(outcome)
                continue
            documents.write(outcome)
            if isinstance(item, ParsedDocument):
                encodings[item.encoding] += 1
            for chunk in chunker.chunk(outcome):
                chunks.write(chunk)
                num_chunk_tokens += chunk.num_tokens
                largest = max(largest, chunk.num_tokens)
            progress.note(f"{documents.num_rows} documents, {chunks.num_rows} chunks")
    tally.check(documents.num_rows, max_dropped_fraction)
    return CorpusSummary(
        num_inputs=num_inputs,
        num_documents=documents.num_rows,
        num_chunks=chunks.num_rows,
        num_chunk_tokens=num_chunk_tokens,
        largest_chunk_tokens=largest,
        dropped=tally.by_reason,
        encodings=encodings,
    )


def _items(scan: SourceScan, progress: Progress) -> Iterator[ParsedDocument | Drop]:
    """What the scan refused, then what the parsers make of the rest."""
    yield from scan.drops
    for raw in scan.inputs:
        yield from parse(raw, raw.read())
        progress.advance()
