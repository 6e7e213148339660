"""What a Qdrant point of a corpus holds, how its collection is called, and the index artifact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.corpus.schema import (
    CHUNKS_FILE,
    DOCUMENTS_FILE,
    Chunk,
    Corpus,
    chunk_from_row,
    read_rows,
)
from pipeline_lib.errors import ArtifactCorruptError
from pipeline_lib.retrieval.digests import PointDigests
from pipeline_lib.retrieval.layout import CollectionLayout, Quantization

DENSE = "dense"
"""Name of the dense vector: cosine distance, as the embedding model gives it."""
BM25 = "bm25"
"""Name of the sparse vector: term weights; Qdrant multiplies by the inverse document frequency."""

POINT_SCHEMA_VERSION = 2
"""Raised when points of the same chunks change their form; gives the collection a new name."""

INDEX_FILE = "index.json"
DIGEST_FIELD = "digest"
_DIGEST_LENGTH = 16
_COLLECTION_SUFFIX_LENGTH = 12
_DOCUMENT_COLUMNS = [
    "document_id",
    "title",
    "source_uri",
    "language",
    "media_type",
    "metadata_json",
]

Payload = dict[str, Any]


class Payloads(Protocol):
    """The payloads of a collection, one a point; a `dict` from point id to payload will do."""

    def values(self) -> Iterable[Payload]:
        """All of them, from the first; may be called several times. The id is `chunk_id`."""


@dataclass(frozen=True)
class CorpusPayloads:
    """The payloads of a corpus artifact, streamed from its folder."""

    directory: Path

    def values(self) -> Iterator[Payload]:
        """Payload after payload, in the corpus' order; a few hundred rows in memory.

        Raises:
            ArtifactCorruptError: chunks and documents do not belong together.
        """
        documents = read_rows(self.directory / DOCUMENTS_FILE, _DOCUMENT_COLUMNS)
        chunks = map(chunk_from_row, read_rows(self.directory / CHUNKS_FILE))
        return _join(documents, chunks)


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
    """`PointDigests.sha256` of the collection: changes with any id and any payload."""
    quantization: Quantization = "none"
    """Of the dense vectors; searches then ask for rescoring (`layout.search_params`)."""

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


def collection_name(
    name: str,
    *,
    embedding_identity: str,
    bm25_language: str,
    chunker: str = "",
    layout: CollectionLayout | None = None,
) -> str:
    """The collection of pipeline `name` for these encoders, this chunker and this layout.

    A change of any of them gives another name: vectors of two encoders never meet in one
    collection, and a change that replaces most points is made beside the collection that is being
    searched. The corpus is not part of it: the collection follows the latest corpus.

    Args:
        name: the pipeline's.
        embedding_identity: content hash of the dense encoder's model.
        bm25_language: of the sparse encoder.
        chunker: what cut the chunks, and how.
        layout: how the collection is kept; by default in memory and exact.
    """
    layout = layout or CollectionLayout()
    identity = canonical_json(
        [
            embedding_identity,
            bm25_language,
            chunker,
            [layout.quantization, layout.on_disk],
            POINT_SCHEMA_VERSION,
        ]
    )
    return f"{name}__{hashlib.sha256(identity).hexdigest()[:_COLLECTION_SUFFIX_LENGTH]}"


def digests_of(payloads: Payloads) -> PointDigests:
    """Ids and payload digests of a collection's payloads.

    Raises:
        ArtifactCorruptError: two chunks have the same id.
    """
    digests = PointDigests.of(
        (payload["chunk_id"], payload[DIGEST_FIELD]) for payload in payloads.values()
    )
    repeated = digests.repeated()
    if len(repeated):
        raise ArtifactCorruptError(
            f"{len(repeated)} chunk ids of the corpus come more than once, for example "
            f"{repeated.examples(1)[0]}",
            hint="Run the ingest stage again.",
        )
    return digests


def payloads_of(corpus: Corpus) -> dict[str, Payload]:
    """Chunk id (which is the point id) to payload, of a corpus in memory.

    Raises:
        ArtifactCorruptError: chunks and documents do not belong together.
    """
    return {
        payload["chunk_id"]: payload
        for payload in _join(map(vars, corpus.documents), corpus.chunks)
    }


def _join(documents: Iterable[Mapping[str, Any]], chunks: Iterable[Chunk]) -> Iterator[Payload]:
    """Each chunk with its document; both in the same order, as ingest writes them."""
    remaining = iter(documents)
    current: Mapping[str, Any] = {"document_id": None}
    for chunk in chunks:
        while current["document_id"] != chunk.document_id:
            following = next(remaining, None)
            if following is None:
                raise ArtifactCorruptError(
                    f"The chunk {chunk.chunk_id} belongs to the document {chunk.document_id}, "
                    "which the corpus does not have, or not in the order of its chunks",
                    hint="Run the ingest stage again.",
                )
            current = following
        yield _payload(chunk, current)


def _payload(chunk: Chunk, document: Mapping[str, Any]) -> Payload:
    """What a point carries, with a digest of it.

    The digest tells a later run changed points from unchanged ones without reading their texts.
    """
    payload: Payload = {
        "chunk_id": chunk.chunk_id,
        "document_id": chunk.document_id,
        "title": document["title"],
        "source_uri": document["source_uri"],
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "ordinal": chunk.ordinal,
        "heading_path": list(chunk.heading_path),
        "places": list(chunk.places),
        "language": document["language"],
        "media_type": document["media_type"],
        "metadata": _metadata(document),
    }
    digest = hashlib.sha256(canonical_json(payload)).hexdigest()
    return {**payload, DIGEST_FIELD: digest[:_DIGEST_LENGTH]}


def _metadata(document: Mapping[str, Any]) -> Any:
    """The document's metadata without nulls, which some clients leave out on the way."""
    try:
        # NaN and infinity are not JSON, though Python writes them.
        metadata = json.loads(document["metadata_json"] or "{}", parse_constant=lambda _: None)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise ArtifactCorruptError(
            f"The metadata of the document {document['document_id']} is no JSON object: "
            f"{document['metadata_json'][:80]!r}",
            hint="Run the ingest stage again.",
        )
    return _without_nulls(metadata)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value
