"""The index stage: from a corpus artifact to a searchable collection and its index artifact.

`build_index` does it all in one place. To spread the embedding over machines, `plan_embedding` cuts
the corpus into shards and `embed_shard` puts one shard's vectors into the embedding cache, anywhere
and in any order; `build_index` then finds them there and only writes.
"""

from __future__ import annotations

import time
from functools import partial

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
from pipeline_lib.config import IndexConfig
from pipeline_lib.corpus.schema import CHUNKS_FILE
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.models import pin_reference, resolve_model
from pipeline_lib.progress import phase
from pipeline_lib.retrieval.column_ranges import count_rows, read_column
from pipeline_lib.retrieval.dense import TextEncoder
from pipeline_lib.retrieval.embedder import Embedder
from pipeline_lib.retrieval.index_job import IndexJob, encoder_of, open_cache
from pipeline_lib.retrieval.layout import payload_indexes
from pipeline_lib.retrieval.schema import CorpusPayloads, IndexRecord, digests_of
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.retrieval.sync import SyncOptions, sync_collection
from pipeline_lib.retrieval.verification import VerificationReport, verify_collection
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage, stage_ref

INDEX_STAGE = "index"
INDEX_STAGE_VERSION = 2


class EmbeddingPlan(BaseModel):
    """Which chunks of a corpus to embed, shard by shard; small, and the same for every worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: ArtifactRef
    """The index that is being made."""
    corpus: ArtifactRef
    config: IndexConfig
    embedding_identity: str
    """Of the model that every worker must have."""
    shards: tuple[tuple[int, int], ...]
    """First row, and the row after the last, in the corpus' chunks; none if the index is there."""


class EmbeddedShard(BaseModel):
    """What `embed_shard` did."""

    model_config = ConfigDict(frozen=True)

    num_chunks: int
    num_embedded: int
    """Texts that nobody had embedded before."""
    seconds: float


def build_index(
    ws: Workspace,
    name: str,
    config: IndexConfig,
    corpus: ArtifactRef,
    *,
    encoder: TextEncoder | None = None,
) -> StageResult:
    """Embed a corpus into Qdrant, or reuse the index that is there.

    The artifact says what the collection must hold; the vectors themselves lie in Qdrant, and in
    the embedding cache. So the artifact alone is not enough to be reused: the collection has to be
    there, in the Qdrant that the settings name, with exactly these points. Where that Qdrant is
    stays out of the fingerprint: moving to another server or machine fills its collection once,
    from the cache, and everything made from this index keeps its place.

    Indexes of the same name, encoders, chunking and layout share **one** collection, which follows
    the latest corpus. An older index artifact then no longer describes it: searches by it are
    refused, and indexing the older corpus again turns the collection back to it. A change of
    encoder, chunking or layout fills a collection of its own, and the alias `name` moves to it once
    it is verified; `rollback_index` moves it back.

    Counts: `num_chunks`, `num_added`, `num_embedded`, `num_updated`, `num_deleted`,
    `num_unchanged`, `num_deleted_collections`, `num_verified`, `num_ignored_segments`.

    Args:
        ws: live services.
        name: the pipeline's name; also the alias of the collection.
        config: which encoders, and how the collection is kept.
        corpus: the corpus artifact.
        encoder: makes the dense vectors; by default `config.embedding_model`.

    Raises:
        ConfigError: the corpus was cut for another tokenizer or for a model that reads more, or
            local mode is asked for what only a server can do.
        InputError: the corpus has no chunks.
        VectorStoreError: Qdrant refused, or the corpus is too large for local mode.
    """
    job = IndexJob.open(ws, name, config, corpus, encoder)
    return run_stage(
        ws,
        kind="index",
        name=name,
        stage=INDEX_STAGE,
        stage_version=INDEX_STAGE_VERSION,
        config=config,
        inputs=job.inputs,
        build=partial(_build, job),
        is_intact=partial(_is_intact, ws),
    )


def plan_embedding(
    ws: Workspace,
    name: str,
    config: IndexConfig,
    corpus: ArtifactRef,
    *,
    encoder: TextEncoder | None = None,
) -> EmbeddingPlan:
    """Cut the corpus into shards of `config.shard_chunks` chunks; loads no model.

    Raises:
        ConfigError: as `build_index` does.
    """
    job = IndexJob.open(ws, name, config, corpus, encoder)
    ref = stage_ref(
        kind="index",
        name=name,
        stage=INDEX_STAGE,
        stage_version=INDEX_STAGE_VERSION,
        config=config,
        inputs=job.inputs,
    )
    size = config.shard_chunks
    num_chunks = 0
    if ws.artifacts.find(ref) is None:
        num_chunks = count_rows(ws.artifacts.directory(corpus) / CHUNKS_FILE)
    return EmbeddingPlan(
        ref=ref,
        corpus=corpus,
        config=config,
        embedding_identity=job.encoder.identity,
        shards=tuple(
            (start, min(start + size, num_chunks)) for start in range(0, num_chunks, size)
        ),
    )


def embed_shard(
    ws: Workspace, plan: EmbeddingPlan, index: int, *, encoder: TextEncoder | None = None
) -> EmbeddedShard:
    """Put the vectors of one shard into the embedding cache; what is there already costs nothing.

    Safe to run on several machines at once, to end at any moment and to repeat.

    Raises:
        ConfigError: this machine has another model under the same name.
    """
    clock = time.monotonic()
    if encoder is None:
        encoder = encoder_of(resolve_model(ws.settings, plan.config.embedding_model), plan.config)
    if encoder.identity != plan.embedding_identity:
        raise ConfigError(
            f"The embedding model {plan.config.embedding_model!r} is {encoder.identity} on this "
            f"machine, but {plan.embedding_identity} where the work was planned",
            hint="Give all machines the same model.",
        )
    start, end = plan.shards[index]
    embedder = Embedder(encoder, open_cache(ws, encoder))
    texts = read_column(ws.artifacts.directory(plan.corpus) / CHUNKS_FILE, "text", start, end)
    with phase(ws.progress, f"Embedding shard {index}", end - start, "chunks") as progress:
        embedder.prepare(texts, progress.advance)
    return EmbeddedShard(
        num_chunks=end - start,
        num_embedded=embedder.num_embedded,
        seconds=round(time.monotonic() - clock, 3),
    )


def verify_index(
    ws: Workspace, index: ArtifactRef, *, encoder: TextEncoder | None = None, sample: int = 1_000
) -> VerificationReport:
    """Compare the collection of an index artifact with the corpus it was made from.

    Args:
        ws: live services.
        index: the index artifact.
        encoder: makes vectors that the cache lacks; by default the index' own model.
        sample: points whose vectors and payloads are read back.
    """
    manifest = ws.artifacts.manifest(index)
    record = IndexRecord.load(ws.artifacts.directory(index))
    if encoder is None:
        config = IndexConfig.model_validate(manifest.config)
        encoder = encoder_of(resolve_model(ws.settings, record.embedding_model), config)
    payloads = CorpusPayloads(ws.artifacts.directory(manifest.input_refs["corpus"]))
    with VectorStore(ws.settings, f"verifying {index}", ws.progress) as store:
        return verify_collection(
            store,
            record.collection,
            digests_of(payloads),
            payloads,
            Embedder(encoder, open_cache(ws, encoder)),
            Bm25Encoder(record.bm25_language),
            sample=sample,
            seed=int(record.points_sha256[:8], 16),
        )


def _build(job: IndexJob, draft: ArtifactDraft) -> None:
    ws, config = job.ws, job.config
    directory = ws.artifacts.directory(job.corpus)
    num_points = count_rows(directory / CHUNKS_FILE)
    if not num_points:
        raise InputError(
            f"{job.corpus} has no chunks, so there is nothing to index",
            hint="Check the sources of the ingest stage.",
        )
    layout = job.layout(num_points)
    collection, cache = job.collection(layout), job.open_cache()
    report = sync_collection(
        partial(VectorStore, ws.settings, f"indexing {job.name!r}", ws.progress),
        CorpusPayloads(directory),
        collection=collection,
        alias=job.name,
        encoder=job.encoder,
        bm25=Bm25Encoder(config.bm25_language),
        progress=ws.progress,
        cache=cache,
        options=SyncOptions(
            layout=layout,
            payload_indexes=payload_indexes(config),
            artifact=str(draft.ref),
            keep_previous=config.keep_previous,
            upload_batch=config.upload_batch,
            verify_sample=config.verify_sample,
        ),
    )
    IndexRecord(
        collection=collection,
        alias=job.name,
        embedding_model=pin_reference(ws.settings, config.embedding_model),
        embedding_identity=job.encoder.identity,
        bm25_language=config.bm25_language,
        dimension=job.encoder.dimension,
        num_points=report.num_points,
        points_sha256=report.points_sha256,
        quantization=layout.quantization,
    ).save(draft.directory)
    draft.counts.update(
        num_chunks=report.num_points,
        num_added=report.num_added,
        num_embedded=report.num_embedded,
        num_updated=report.num_updated,
        num_deleted=report.num_deleted,
        num_unchanged=report.num_unchanged,
        num_deleted_collections=report.num_deleted_collections,
        num_verified=report.verification.num_sampled,
        num_ignored_segments=cache.num_ignored_segments,
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
            and store.digests(record.collection).sha256() == mark
            and store.aliases().get(record.alias) == record.collection
        )
