"""What an evaluation has to know of a corpus: names, places and lengths, without its texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.corpus.schema import (
    CHUNKS_FILE,
    DOCUMENTS_FILE,
    Document,
    document_from_row,
    read_rows,
)
from pipeline_lib.evaluation.retrieval.gold import (
    ChunkPlace,
    CorpusDocument,
    Gold,
    Level,
    chunk_gold,
    document_gold,
    locate_spans,
    match_documents,
    span_gold,
)
from pipeline_lib.evaluation.retrieval.judgements import Judgements, Span


@dataclass(frozen=True)
class CorpusView:
    """A corpus artifact's folder, read as far as needed."""

    directory: Path
    documents: tuple[CorpusDocument, ...]
    chunks: tuple[ChunkPlace, ...]
    num_tokens: Mapping[str, int]
    """Chunk id to its tokens."""

    @classmethod
    def read(cls, directory: Path) -> CorpusView:
        """Read ids, offsets and lengths: some 300 bytes a chunk."""
        documents = tuple(
            CorpusDocument(**row)
            for row in read_rows(
                directory / DOCUMENTS_FILE, ["document_id", "source_uri", "metadata_json"]
            )
        )
        places, num_tokens = [], {}
        columns = [*ChunkPlace._fields, "num_tokens"]
        for row in read_rows(directory / CHUNKS_FILE, columns):
            num_tokens[row["chunk_id"]] = row.pop("num_tokens")
            places.append(ChunkPlace(**row))
        return cls(directory, documents, tuple(places), num_tokens)

    @property
    def chunk_ids(self) -> set[str]:
        """Of all chunks."""
        return set(self.num_tokens)

    def read_documents(self) -> Iterator[Document]:
        """The whole documents, one at a time."""
        return map(document_from_row, read_rows(self.directory / DOCUMENTS_FILE))

    def gold(self, judgements: Judgements, level: Level) -> Gold:
        """What is relevant among this corpus' chunks."""
        if level == "documents":
            return document_gold(judgements, self.documents)
        if level == "chunks":
            return chunk_gold(judgements, self.chunk_ids)
        return span_gold(judgements, self.locate(judgements), self.chunks)

    def locate(self, judgements: Judgements) -> dict[str, list[Span | None]]:
        """The judgements' spans in this corpus' documents."""
        named = {span.document for spans in judgements.spans.values() for span in spans}
        matched = match_documents(named, self.documents)
        wanted = set(matched.values())
        columns = ["document_id", "text"]
        texts = {
            row["document_id"]: row["text"]
            for row in read_rows(self.directory / DOCUMENTS_FILE, columns)
            if row["document_id"] in wanted
        }
        return locate_spans(judgements.spans, matched, texts)
