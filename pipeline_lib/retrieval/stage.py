"""The index stage: from a corpus artifact to a searchable collection and its index artifact."""

from __future__ import annotations

from functools import partial

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
from pipeline_lib.config import IndexConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.models import resolve_model
from pipeline_lib.retrieval.dense import DenseEncoder, TextEncoder
from pipeline_lib.retrieval.schema import (
    IndexRecord,
    collection_name,
    payloads_of,
    points_digest,
)
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.retrieval.sync import sync_collection
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage

INDEX_STAGE = "index"
INDEX_STAGE_VERSION = 1


def build_index(
    ws: Workspace,
    name: str,
    config: IndexConfig,
    corpus: ArtifactRef,
    *,
    encoder: TextEncoder | None = None,
) -> StageResult:
    """Embed a corpus into Qdrant, or reuse the index that is there.

    The artifact says what the collection must hold; the vectors themselves lie in Qdrant. So the
    artifact alone is not enough to be reused: the collection has to be there, in the Qdrant that
    the settings name, with exactly these points. Where that Qdrant is stays out of the
    fingerprint: moving to another server or machine fills its collection once, and everything made
    from this index keeps its place.

    Indexes of the same name and encoders share **one** collection, which follows the latest corpus.
    An older index artifact then no longer describes it: searches by it are refused, and indexing
    the older corpus again turns the collection back to it.

    Counts: `num_chunks`, `num_embedded`, `num_updated`, `num_deleted`, `num_unchanged`.

    Args:
        ws: live services.
        name: the pipeline's name; also the alias of the collection.
        config: which encoders.
        corpus: the corpus artifact.
        encoder: makes the dense vectors; by default `config.embedding_model`.

    Raises:
        ConfigError: the corpus was cut for another embedding model.
        InputError: the corpus has no chunks.
        VectorStoreError: Qdrant refused, or the corpus is too large for local mode.
    """
    _check_corpus(ws.artifacts.manifest(corpus), config)
    if encoder is None:
        model = resolve_model(ws.settings, config.embedding_model, ws.progress)
        encoder = DenseEncoder(model.path, model.identity, config.batch_tokens)
    return run_stage(
        ws,
        kind="index",
        name=name,
        stage=INDEX_STAGE,
        stage_version=INDEX_STAGE_VERSION,
        config=config,
        inputs={"corpus": corpus, "embedding_model": encoder.identity},
        build=partial(_build, ws, name, config, corpus, encoder),
        is_intact=partial(_is_intact, ws),
    )


def _build(
    ws: Workspace,
    name: str,
    config: IndexConfig,
    corpus_ref: ArtifactRef,
    encoder: TextEncoder,
    draft: ArtifactDraft,
) -> None:
    payloads = payloads_of(Corpus.load(ws.artifacts.directory(corpus_ref)))
    if not payloads:
        raise InputError(
            f"{corpus_ref} has no chunks, so there is nothing to index",
            hint="Check the sources of the ingest stage.",
        )
    collection = collection_name(
        name, embedding_identity=encoder.identity, bm25_language=config.bm25_language
    )
    report = sync_collection(
        partial(VectorStore, ws.settings, f"indexing {name!r}", ws.progress),
        payloads,
        collection=collection,
        alias=name,
        encoder=encoder,
        bm25=Bm25Encoder(config.bm25_language),
        progress=ws.progress,
    )
    IndexRecord(
        collection=collection,
        alias=name,
        embedding_model=config.embedding_model,
        embedding_identity=encoder.identity,
        bm25_language=config.bm25_language,
        dimension=encoder.dimension,
        num_points=report.num_points,
        points_sha256=report.points_sha256,
    ).save(draft.directory)
    draft.counts.update(
        num_chunks=report.num_points,
        num_embedded=report.num_embedded,
        num_updated=report.num_updated,
        num_deleted=report.num_deleted,
        num_unchanged=report.num_unchanged,
    )


def _check_corpus(manifest: Manifest, config: IndexConfig) -> None:
    if manifest.ref.kind != "corpus":
        raise ConfigError(
            f"An index is made from a corpus, not from {manifest.ref}",
            hint="Give a reference like corpus/<name>@latest.",
        )
    chunked_for = manifest.config.get("embedding_model")
    if chunked_for != config.embedding_model:
        raise ConfigError(
            f"embedding_model is {config.embedding_model!r}, but the chunks of {manifest.ref} were "
            f"measured with {chunked_for!r}",
            hint="Give the ingest and the index stage the same embedding_model.",
        )


def _is_intact(ws: Workspace, manifest: Manifest) -> bool:
    """Whether the collection holds exactly the points that the artifact describes."""
    record = IndexRecord.load(ws.artifacts.directory(manifest.ref))
    with VectorStore(ws.settings, f"checking {manifest.ref}", ws.progress) as store:
        if not store.exists(record.collection):
            return False
        mark, num_points = store.content_mark(record.collection)
        return (
            num_points == record.num_points
            and mark == record.points_sha256
            and points_digest(store.digests(record.collection)) == mark
            and store.aliases().get(record.alias) == record.collection
        )
