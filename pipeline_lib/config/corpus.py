"""How sources become documents and chunks."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import (
    BUNDLED_EMBEDDING_MODEL,
    SAMPLE_SOURCE,
    FrozenConfig,
    operational,
)


class ChunkConfig(FrozenConfig):
    """How documents are cut into chunks."""

    size_tokens: int = Field(
        160,
        gt=15,
        le=8192,
        title="Chunk size (tokens)",
        description="Most tokens per chunk, counted with the embedding model's tokenizer, "
        "without its special tokens.",
    )
    overlap_tokens: int = Field(
        0,
        ge=0,
        title="Chunk overlap (tokens)",
        description="Tokens shared by neighbouring chunks; smaller than the chunk size.",
    )

    @model_validator(mode="after")
    def _overlap_below_size(self) -> Self:
        if self.overlap_tokens >= self.size_tokens:
            raise ValueError(
                f"overlap_tokens ({self.overlap_tokens}) must be smaller than "
                f"size_tokens ({self.size_tokens})"
            )
        return self


class IngestConfig(FrozenConfig):
    """From sources to documents and chunks."""

    # The stage fingerprints the sources' contents, so where they lie may differ between machines.
    sources: tuple[str, ...] = operational(
        (SAMPLE_SOURCE,),
        min_length=1,
        title="Sources",
        description="Folders, files (.txt .md .rst .html .jsonl) or "
        f"'{SAMPLE_SOURCE}', the built-in sample. Paths are read on the worker.",
    )
    chunking: ChunkConfig = Field(default_factory=ChunkConfig, title="Chunking")
    embedding_model: str = Field(
        BUNDLED_EMBEDDING_MODEL,
        title="Embedding model",
        description="Its tokenizer measures chunks: 'bundled:…', a hub id, or a local folder.",
    )
    max_file_bytes: int = Field(
        50_000_000,
        gt=0,
        title="Largest file (bytes)",
        description="Larger files are dropped and counted.",
    )
    max_dropped_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Most inputs dropped (fraction)",
        description="The stage fails when a larger share of the inputs had to be dropped.",
    )
