"""How chunks become searchable, and how they are searched."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline_lib.config.base import BUNDLED_EMBEDDING_MODEL, FrozenConfig, operational


class IndexConfig(FrozenConfig):
    """From chunks to a searchable Qdrant collection."""

    embedding_model: str = Field(
        BUNDLED_EMBEDDING_MODEL,
        title="Embedding model",
        description="Dense encoder: 'bundled:…', a hub id, or a local folder.",
    )
    bm25_language: str = Field(
        "english",
        title="BM25 language",
        description="Stemmer and stop words of the sparse encoder.",
    )
    batch_tokens: int = operational(
        8192,
        gt=0,
        title="Tokens per batch",
        description="Texts are sorted by length and batched up to this many padded tokens.",
    )


class RetrievalConfig(FrozenConfig):
    """How a query finds chunks."""

    mode: Literal["hybrid", "dense", "sparse"] = Field(
        "hybrid", title="Mode", description="Which vectors answer a query."
    )
    fusion: Literal["dbsf", "rrf"] = Field(
        "dbsf",
        title="Fusion",
        description="How hybrid search joins its branches: distribution-based score fusion, "
        "or reciprocal rank fusion.",
    )
    rrf_k: int = Field(
        60,
        ge=1,
        title="RRF k",
        description="Rank constant of reciprocal rank fusion; ranks count from 1.",
    )
    prefetch_limit: int = Field(
        50, ge=1, le=10_000, title="Candidates per branch", description="Before fusion."
    )
