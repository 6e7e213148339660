"""How sources become documents and chunks."""

from __future__ import annotations

from typing import Literal, Self

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


class RecordColumns(FrozenConfig):
    """Which columns of JSONL, parquet and Arrow records hold what."""

    text: str = Field(
        "text", min_length=1, title="Text column", description="Records without it are dropped."
    )
    id: str = Field(
        "id",
        title="Id column",
        description="Keeps a document's identity while its text changes; optional in the data.",
    )
    title: str = Field("title", title="Title column", description="Optional in the data.")
    uri: str = Field(
        "url", title="Source column", description="Where the record is from; optional in the data."
    )
    metadata: tuple[str, ...] | None = Field(
        None,
        title="Metadata columns",
        description="Kept with the document and usable in search filters; empty: all others.",
    )


class IngestLimits(FrozenConfig):
    """What one input may cost; beyond it, the input is dropped and counted."""

    max_file_bytes: int = Field(
        50_000_000,
        gt=0,
        title="Largest document (bytes)",
        description="Files of records and archives are streamed, so this holds for one record "
        "and one member.",
    )
    max_pages: int = Field(
        5_000, gt=0, title="Most pages", description="Pages, slides or sheets of one document."
    )
    max_unpacked_bytes: int = Field(
        2_000_000_000,
        gt=0,
        title="Most unpacked bytes",
        description="Of one archive, or of one document that is a zip inside (DOCX, EPUB).",
    )
    max_members: int = Field(
        100_000, gt=0, title="Most members", description="Files in one archive."
    )
    max_nesting: int = Field(
        1, ge=0, le=8, title="Archive nesting", description="Archives inside archives."
    )
    max_seconds: float = Field(
        60.0, gt=0, title="Most time (seconds)", description="For parsing one input."
    )
    max_memory_bytes: int = Field(
        2_000_000_000, gt=0, title="Most memory (bytes)", description="For parsing one input."
    )


class FilterConfig(FrozenConfig):
    """Which documents to leave out, and what to remove from the others."""

    languages: tuple[str, ...] = Field(
        (),
        title="Languages",
        description="Two-letter codes (ISO 639-1); documents in others are dropped. "
        "Empty: all are kept.",
    )
    min_chars: int = Field(
        1, ge=1, title="Shortest document (characters)", description="After cleaning."
    )
    max_chars: int | None = Field(
        None, ge=1, title="Longest document (characters)", description="After cleaning."
    )
    personal_data: Literal["keep", "redact", "drop"] = Field(
        "keep",
        title="Personal data",
        description="E-mail addresses, phone numbers, IP addresses, IBANs, card numbers: keep "
        "them, replace each by its kind, or drop the document.",
    )
    secrets: Literal["keep", "redact", "drop"] = Field(
        "redact",
        title="Secrets",
        description="Access keys, tokens and private keys: keep, replace, or drop the document.",
    )


class DeduplicationConfig(FrozenConfig):
    """Which documents count as copies; of each group the first is kept."""

    near_duplicates: bool = Field(
        True,
        title="Near duplicates",
        description="Also drop documents that nearly equal an earlier one (MinHash).",
    )
    threshold: float = Field(
        0.8,
        gt=0,
        le=1,
        title="Similarity threshold",
        description="Jaccard similarity of the documents' sets of word 5-grams.",
    )


class WebConfig(FrozenConfig):
    """How URLs and sitemaps are fetched."""

    allow_private_addresses: bool = Field(
        False,
        title="Allow private addresses",
        description="Fetch from private, loopback and link-local addresses as well. Only for "
        "sources that nobody else can change.",
    )
    max_urls: int = Field(
        1_000, ge=1, title="Most URLs", description="Of one sitemap or list of URLs."
    )
    requests_per_second: float = operational(
        1.0, gt=0, le=100, title="Requests per second", description="To one host."
    )
    timeout_seconds: float = operational(
        30.0, gt=0, title="Time limit per request (seconds)", description="Redirects included."
    )


class IngestConfig(FrozenConfig):
    """From sources to documents and chunks."""

    # The stage fingerprints the sources' contents, so where they lie may differ between machines.
    sources: tuple[str, ...] = operational(
        (SAMPLE_SOURCE,),
        min_length=1,
        title="Sources",
        description="Folders, files, globs (docs/**/*.md), s3://bucket/prefix, https:// pages, "
        "sitemap:https://…/sitemap.xml, urls:list.txt, archives (.zip .tar.gz), records "
        f"(.jsonl .parquet), or '{SAMPLE_SOURCE}', the built-in sample. Paths are read on the "
        "worker.",
    )
    chunking: ChunkConfig = Field(default_factory=ChunkConfig, title="Chunking")
    embedding_model: str = Field(
        BUNDLED_EMBEDDING_MODEL,
        title="Embedding model",
        description="Its tokenizer measures chunks: 'bundled:…', a hub id, or a local folder.",
    )
    records: RecordColumns = Field(default_factory=RecordColumns, title="Record columns")
    loader: Literal["builtin", "docling", "unstructured"] = Field(
        "builtin",
        title="Loader",
        description="What reads PDF, office documents and web pages. 'docling' and "
        "'unstructured' need the extra of the same name on every worker.",
    )
    limits: IngestLimits = Field(default_factory=IngestLimits, title="Limits per input")
    filters: FilterConfig = Field(default_factory=FilterConfig, title="Filters")
    deduplication: DeduplicationConfig = Field(
        default_factory=DeduplicationConfig, title="Deduplication"
    )
    web: WebConfig = Field(default_factory=WebConfig, title="Web sources")
    max_dropped_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Most inputs dropped (fraction)",
        description="The stage fails when a larger share of the inputs had to be dropped.",
    )
    num_workers: int = operational(
        0,
        ge=0,
        le=256,
        title="Parser processes",
        description="Documents parsed at once; 0: one per CPU core, and one per task of a fan-out.",
    )
    shard_inputs: int = operational(
        500,
        ge=1,
        le=100_000,
        title="Inputs per shard",
        description="At most. A shard is what is lost when a run is killed, and what one task of "
        "a fan-out parses.",
    )
    shard_bytes: int = operational(
        64_000_000, ge=1, title="Bytes per shard", description="At most, but at least one input."
    )
