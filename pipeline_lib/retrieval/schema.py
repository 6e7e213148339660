"""What a Qdrant point of a corpus holds, how its collection is called, and the index artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.corpus.schema import Chunk, Corpus, Document
from pipeline_lib.errors import ArtifactCorruptError

DENSE = "dense"
"""Name of the dense vector: cosine distance, as the embedding model gives it."""
BM25 = "bm25"
"""Name of the sparse vector: term weights; Qdrant multiplies by the inverse document frequency."""

POINT_SCHEMA_VERSION = 1
"""Raised when points of the same chunks change their form; gives the collection a new name."""

INDEX_FILE = "index.json"
DIGEST_FIELD = "digest"
_DIGEST_LENGTH = 16
_COLLECTION_SUFFIX_LENGTH = 12


class IndexRecord(BaseModel):
    """The index artifact's only file: which collection holds the vectors, and what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: str
    alias: str
    embedding_model: str
    embedding_identity: str
    bm25_language: str
    dimension: int
    num_points: int
    points_sha256: str
    """`points_digest` of the collection: changes with any id and any payload."""

    @classmethod
    def load(cls, directory: Path) -> IndexRecord:
        """Read the index artifact in `directory`.

        Raises:
            ArtifactCorruptError: the file has another form.
        """
        path = directory / INDEX_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactCorruptError(
                f"{path} is not an index record: {error.errors()[0]['msg']}",
                hint="It was written by another version of Raftline. Run the index stage again.",
            ) from error

    def save(self, directory: Path) -> None:
        """Write the record into `directory`."""
        (directory / INDEX_FILE).write_text(self.model_dump_json(indent=1), encoding="utf-8")


def collection_name(name: str, *, embedding_identity: str, bm25_language: str) -> str:
    """The collection of pipeline `name` for this pair of encoders.

    A change of either encoder gives another name, so vectors of two encoders never meet in one
    collection. The corpus is not part of it: the collection follows the latest corpus.
    """
    identity = canonical_json([embedding_identity, bm25_language, POINT_SCHEMA_VERSION])
    return f"{name}__{hashlib.sha256(identity).hexdigest()[:_COLLECTION_SUFFIX_LENGTH]}"


def payloads_of(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Chunk id (which is the point id) to payload, in the corpus' order.

    A payload carries a digest of itself, so that a later run can tell changed points from
    unchanged ones without reading their texts.

    Raises:
        ArtifactCorruptError: a chunk belongs to a document that the corpus does not have.
    """
    documents = {document.document_id: document for document in corpus.documents}
    orphans = [c.chunk_id for c in corpus.chunks if c.document_id not in documents]
    if orphans:
        raise ArtifactCorruptError(
            f"{len(orphans)} chunks of the corpus belong to no document of it, "
            f"for example {orphans[0]}",
            hint="Run the ingest stage again.",
        )
    return {c.chunk_id: _payload(c, documents[c.document_id]) for c in corpus.chunks}


def points_digest(digests: Mapping[str, str]) -> str:
    """One SHA-256 over point ids and payload digests, whatever their order."""
    lines: Iterable[str] = (f"{point} {digests[point]}\n" for point in sorted(digests))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _payload(chunk: Chunk, document: Document) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "chunk_id": chunk.chunk_id,
        "document_id": chunk.document_id,
        "title": document.title,
        "source_uri": document.source_uri,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "ordinal": chunk.ordinal,
    }
    digest = hashlib.sha256(canonical_json(payload)).hexdigest()
    return {**payload, DIGEST_FIELD: digest[:_DIGEST_LENGTH]}
