"""A small collection about Python, filled by hand, and ways to search in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from qdrant_client.models import PointStruct

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import ArtifactStore
from pipeline_lib.config import RetrievalConfig
from pipeline_lib.corpus.schema import Chunk, Corpus
from pipeline_lib.progress import NullProgress
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retrieval.search import Hit, Searcher
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace

REF = ArtifactRef(kind="index", name="demo", fingerprint="0" * 32)
TEXTS = [
    "A list is a mutable sequence of items.",
    "A tuple is an immutable sequence of items.",
    "A generator yields values lazily.",
    "The yield expression suspends a generator function.",
    "Dictionaries map keys to values.",
    "A set holds distinct hashable items.",
    "Exceptions are raised by the raise statement.",
    "The with statement enters a context manager.",
]
QUERY = "generator yields items"
HYBRID_RRF = RetrievalConfig(fusion="rrf", rrf_k=60)
HYBRID_DBSF = RetrievalConfig(fusion="dbsf")
DENSE = RetrievalConfig(mode="dense")
SPARSE = RetrievalConfig(mode="sparse")


def open_searcher(
    settings: Settings, corpus: Corpus, encoder, extra: Sequence[dict[str, Any]] = (), **options
) -> Searcher:
    """A filled collection behind a searcher; `extra` adds to the payloads, in the corpus' order."""
    payloads = [_payload(corpus, chunk) for chunk in corpus.chunks]
    for payload, fields in zip(payloads, extra, strict=False):
        payload.update(fields)
    texts = [payload["text"] for payload in payloads]
    dense, sparse = encoder.encode_documents(texts), Bm25Encoder("english").encode_documents(texts)
    points = []
    for row, payload in enumerate(payloads):
        vector: dict[str, Any] = {"dense": dense[row].tolist()}
        if sparse[row].indices:
            vector["bm25"] = sparse[row]
        points.append(PointStruct(id=payload["chunk_id"], vector=vector, payload=payload))
    mark = hashlib.sha256(repr(payloads).encode()).hexdigest()
    with VectorStore(settings, "test") as store:
        if store.exists("demo__1"):
            store.drop("demo__1")
        store.create("demo__1", encoder.dimension)
        store.upsert("demo__1", points)
        store.set_content_mark("demo__1", mark)
    record = IndexRecord(
        collection="demo__1",
        alias="demo",
        embedding_model="fake",
        embedding_identity=encoder.identity,
        bm25_language="english",
        dimension=encoder.dimension,
        num_points=len(points),
        points_sha256=mark,
    )
    ws = Workspace(settings, ArtifactStore(settings), NullProgress())
    return Searcher(ws, REF, record, encoder, **options)


def _payload(corpus: Corpus, chunk: Chunk) -> dict[str, Any]:
    document = next(d for d in corpus.documents if d.document_id == chunk.document_id)
    return {
        "chunk_id": chunk.chunk_id,
        "document_id": chunk.document_id,
        "title": document.title,
        "source_uri": document.source_uri,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "ordinal": chunk.ordinal,
        "heading_path": list(chunk.heading_path),
        "places": list(chunk.places),
        "language": document.language,
        "media_type": document.media_type,
        "metadata": {},
        "digest": "0" * 16,
    }


def search_one(
    searcher: Searcher, query: str, config: RetrievalConfig, limit: int = 50
) -> list[Hit]:
    [hits] = searcher.search([query], limit=limit, config=config)
    return hits


def scores(hits: list[Hit]) -> dict[str, float]:
    return {hit.text: hit.score for hit in hits}
