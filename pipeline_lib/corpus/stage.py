"""The stage `ingest`: sources to the artifact `corpus`."""

from __future__ import annotations

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.build import build_corpus
from pipeline_lib.corpus.chunking import Chunker, check_fits_model, load_tokenizer
from pipeline_lib.corpus.sources import scan_sources
from pipeline_lib.models import resolve_model
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage

INGEST_STAGE_VERSION = 1
"""Raised when equal sources and configuration may give another corpus."""


def ingest(ws: Workspace, name: str, config: IngestConfig) -> StageResult:
    """Turn the sources into documents and chunks, or find that this was done already.

    Counts: `num_inputs`, `num_documents`, `num_chunks`, `num_chunk_tokens`. Every input is a
    document or a drop; `drops.parquet` says which and why.

    Raises:
        InputError: a source is missing or of an unknown kind, or no document is left.
        TooManyDropsError: the share of dropped inputs exceeds `config.max_dropped_fraction`.
        ConfigError: the embedding model cannot read chunks of the configured size.
        ModelNotFoundError: the embedding model, whose tokenizer measures chunks, is not there.
    """
    scan = scan_sources(config.sources, max_file_bytes=config.max_file_bytes, progress=ws.progress)
    model = resolve_model(ws.settings, config.embedding_model, ws.progress)

    def build(draft: ArtifactDraft) -> None:
        tokenizer = load_tokenizer(model.path)
        check_fits_model(config.chunking, model.path, tokenizer)
        summary = build_corpus(
            draft.directory,
            scan,
            Chunker(tokenizer, config.chunking),
            max_dropped_fraction=config.max_dropped_fraction,
            progress=ws.progress,
        )
        draft.counts.update(
            num_inputs=summary.num_inputs,
            num_documents=summary.num_documents,
            num_chunks=summary.num_chunks,
            num_chunk_tokens=summary.num_chunk_tokens,
        )
        draft.dropped.update(summary.dropped)
        draft.details.update(
            encodings=dict(summary.encodings),
            largest_chunk_tokens=summary.largest_chunk_tokens,
        )

    return run_stage(
        ws,
        kind="corpus",
        name=name,
        stage="ingest",
        stage_version=INGEST_STAGE_VERSION,
        config=config,
        inputs={"sources": scan.digest, "embedding_model": model.identity},
        build=build,
    )
