"""How chunks become searchable."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline_lib.config.base import BUNDLED_EMBEDDING_MODEL, FrozenConfig, operational


class MetadataIndex(FrozenConfig):
    """A metadata field that searches filter by, and that a Qdrant server indexes for it."""

    field: str = Field(
        min_length=1,
        title="Field",
        description="Of the documents' metadata; dots lead into objects, as in 'author.name'.",
    )
    type: Literal["keyword", "integer", "float", "bool", "datetime", "text"] = Field(
        "keyword", title="Type", description="What its values are; 'text' is searched by words."
    )


class IndexConfig(FrozenConfig):
    """From chunks to a searchable Qdrant collection."""

    embedding_model: str = Field(
        BUNDLED_EMBEDDING_MODEL,
        title="Embedding model",
        description="Dense encoder: 'bundled:…', a hub id, a local folder, or a tuned retriever: "
        "'artifact:model/<name>-retriever@champion'.",
    )
    bm25_language: str = Field(
        "english",
        title="BM25 language",
        description="Stemmer and stop words of the sparse encoder.",
    )
    quantization: Literal["auto", "none", "int8"] = Field(
        "auto",
        title="Quantization",
        description="int8 keeps a copy of the dense vectors in memory at a quarter of their size "
        "and looks at the originals of the best only. 'auto': from 500 MB of vectors on; "
        "never in local mode.",
    )
    on_disk: Literal["auto", "always", "never"] = Field(
        "auto",
        title="On disk",
        description="Whether original vectors and payloads stay on disk instead of in memory. "
        "'auto': from 500 MB of vectors on. Local mode knows 'auto' and 'never' only.",
    )
    metadata_indexes: tuple[MetadataIndex, ...] = Field(
        (),
        title="Metadata indexes",
        description="Metadata fields that filters use; a server needs them to be fast. Local mode "
        "has none.",
    )
    keep_previous: int = operational(
        1,
        ge=0,
        le=10,
        title="Previous collections kept",
        description="A change of model, chunking or layout fills a new collection and switches to "
        "it; so many older ones stay for going back.",
    )
    verify_sample: int = operational(
        64,
        ge=0,
        le=10_000,
        title="Vectors verified",
        description="Points drawn at random whose vectors and payloads are read back and compared "
        "after each run.",
    )
    batch_tokens: int = operational(
        8192,
        gt=0,
        title="Tokens per batch",
        description="Texts are sorted by length and batched up to this many padded tokens; a GPU "
        "gets 16 times as many.",
    )
    upload_batch: int = operational(
        256,
        ge=1,
        le=10_000,
        title="Points per upload",
        description="Written to Qdrant in one request.",
    )
    shard_chunks: int = operational(
        5_000,
        ge=1,
        title="Chunks per embedding task",
        description="When embedding fans out over several machines.",
    )
