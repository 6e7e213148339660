"""The stage `ingest`: sources to the artifact `corpus`.

`ingest` does it all in one place. To spread the parsing over machines, `plan_ingest` lists the
sources once and leaves each shard's inputs in S3, `prepare_shard` parses one shard anywhere, and
`finish_ingest` puts the corpus together. Either way gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.build import CorpusSummary, build_corpus
from pipeline_lib.corpus.chunking import (
    Chunker,
    check_fits_model,
    load_tokenizer,
    tokenizer_identity,
)
from pipeline_lib.corpus.plan import read_scan, read_shard_inputs, write_scan, write_shard_inputs
from pipeline_lib.corpus.process import processing_key
from pipeline_lib.corpus.processed import ProcessedInput
from pipeline_lib.corpus.shards import (
    Shard,
    cut_shards,
    open_pool,
    prepared_shards,
    process_shard,
    read_shard,
    usable_cores,
)
from pipeline_lib.corpus.snapshot import PROCESSING_DETAIL, PreviousCorpus, change_counts
from pipeline_lib.corpus.sources.base import SourceScan
from pipeline_lib.corpus.sources.reading import InputReader
from pipeline_lib.corpus.sources.scan import scan_sources
from pipeline_lib.errors import ConfigError
from pipeline_lib.models import ResolvedModel, resolve_model
from pipeline_lib.progress import phase
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage, stage_ref

INGEST_STAGE_VERSION = 2
"""Raised when equal sources and configuration may give another corpus."""


class IngestPlan(BaseModel):
    """What there is to parse, cut into shards; small, and the same for every worker."""

    model_config = ConfigDict(frozen=True)

    ref: ArtifactRef
    """The corpus that is being made."""
    config: IngestConfig
    is_done: bool
    """The corpus is there already."""
    processing: str
    """What the workers must agree on; see `processing_key`."""
    shards: tuple[str, ...]
    """Keys of the shards that are still to be parsed."""


def ingest(ws: Workspace, name: str, config: IngestConfig) -> StageResult:
    """Turn the sources into documents and chunks, or find that this was done already.

    Counts: `num_inputs`, `num_documents`, `num_chunks`, `num_chunk_tokens`, and how the inputs
    compare with those of the corpus before: `num_added`, `num_changed`, `num_unchanged`,
    `num_removed`. Every input is a document or a drop; `drops.parquet` says which, why, and what
    to do about it.

    Raises:
        InputError: a source is missing or of an unknown kind, or no document is left.
        TooManyDropsError: the share of dropped inputs exceeds `config.max_dropped_fraction`.
        ConfigError: the embedding model cannot read chunks of the configured size.
        ModelNotFoundError: the embedding model, whose tokenizer measures chunks, is not there.
    """
    return _run(_Job.open(ws, name, config))


def finish_ingest(ws: Workspace, plan: IngestPlan) -> StageResult:
    """Put the corpus of a plan together; shards that nobody has prepared are parsed here.

    Counts and errors are those of `ingest`.
    """
    scan = read_scan(ws.artifacts.partial(plan.ref))
    return _run(_Job.open(ws, plan.ref.name, plan.config, scan))


def plan_ingest(ws: Workspace, name: str, config: IngestConfig) -> IngestPlan:
    """List the sources and cut what has to be parsed into shards; their inputs go to S3.

    Raises:
        InputError: a source is missing or of an unknown kind.
        ConfigError: the embedding model cannot read chunks of the configured size.
        ModelNotFoundError: the embedding model is not there.
    """
    job = _Job.open(ws, name, config)
    ref = job.ref
    if ws.artifacts.find(ref) is not None:
        return IngestPlan(ref=ref, config=config, is_done=True, processing="", shards=())
    work = _Work.of(job)
    partial = ws.artifacts.partial(ref)
    there = prepared_shards(partial)
    missing = [shard for shard in work.shards if shard.key not in there]
    write_scan(partial, job.scan)
    for shard in missing:
        write_shard_inputs(partial, shard)
    return IngestPlan(
        ref=ref,
        config=config,
        is_done=False,
        processing=work.processing,
        shards=tuple(shard.key for shard in missing),
    )


def prepare_shard(ws: Workspace, plan: IngestPlan, index: int) -> int:
    """Parse one shard of a plan, unless that has been done, and return its number of inputs.

    Runs on any machine that reaches the artifact store and the sources: local paths must be on a
    file system that it shares. Where a runner spreads the shards, one parser process serves each,
    unless `config.num_workers` says otherwise.

    Raises:
        ConfigError: the libraries or the tokenizer here are not those of the plan.
        InputError: an input changed since the plan was made, or cannot be read here.
    """
    partial = ws.artifacts.partial(plan.ref)
    shard = read_shard_inputs(partial, plan.shards[index])
    if shard.key in prepared_shards(partial):
        return len(shard.inputs)
    model = resolve_model(ws.settings, plan.config.embedding_model, ws.progress)
    if processing_key(plan.config, tokenizer_identity(model.path)) != plan.processing:
        raise ConfigError(
            "This worker would parse otherwise than was planned: its code, its libraries or its "
            f"tokenizer of {plan.config.embedding_model} differ",
            hint="Give all workers the same release of raftline and the same lock file.",
        )
    ws.settings.scratch.mkdir(parents=True, exist_ok=True)
    _parse(ws, plan.config, model.path, partial, [shard], plan.config.num_workers or 1)
    return len(shard.inputs)


def _run(job: _Job) -> StageResult:
    return run_stage(
        job.ws,
        kind="corpus",
        name=job.name,
        stage="ingest",
        stage_version=INGEST_STAGE_VERSION,
        config=job.config,
        inputs=job.inputs,
        build=lambda draft: _build(job, draft),
    )


@dataclass(frozen=True)
class _Job:
    """One corpus to be: what its fingerprint depends on."""

    ws: Workspace
    name: str
    config: IngestConfig
    scan: SourceScan
    model: ResolvedModel

    @classmethod
    def open(
        cls, ws: Workspace, name: str, config: IngestConfig, scan: SourceScan | None = None
    ) -> _Job:
        scan = scan or scan_sources(ws.settings, ws.artifacts.objects, name, config, ws.progress)
        model = resolve_model(ws.settings, config.embedding_model, ws.progress)
        return cls(ws, name, config, scan, model)

    @property
    def inputs(self) -> dict[str, str]:
        return {"sources": self.scan.digest, "embedding_model": self.model.identity}

    @property
    def ref(self) -> ArtifactRef:
        return stage_ref(
            kind="corpus",
            name=self.name,
            stage="ingest",
            stage_version=INGEST_STAGE_VERSION,
            config=self.config,
            inputs=self.inputs,
        )


@dataclass(frozen=True)
class _Work:
    """What has to be parsed for a job, and what can be taken from the corpus before."""

    tokenizer: str
    processing: str
    previous: PreviousCorpus | None
    reused: frozenset[str]
    """URIs of inputs."""
    shards: list[Shard]

    @classmethod
    def of(cls, job: _Job) -> _Work:
        tokenizer = load_tokenizer(job.model.path)
        check_fits_model(job.config.chunking, job.model.path, tokenizer)
        identity = tokenizer_identity(job.model.path)
        processing = processing_key(job.config, identity)
        previous = PreviousCorpus.find(job.ws.artifacts, job.name)
        reused = previous.reusable(job.scan.inputs, processing) if previous else frozenset()
        shards = cut_shards(
            [item for item in job.scan.inputs if item.uri not in reused],
            processing,
            max_inputs=job.config.shard_inputs,
            max_bytes=job.config.shard_bytes,
        )
        return cls(identity, processing, previous, reused, shards)


def _build(job: _Job, draft: ArtifactDraft) -> None:
    work = _Work.of(job)
    _prepare_missing(job, work, draft.partial)

    @cache
    def chunker() -> Chunker:
        return Chunker(load_tokenizer(job.model.path), job.config.chunking)

    summary = build_corpus(
        draft.directory,
        job.scan,
        _processed(job, work, draft.partial),
        before=work.previous.entries if work.previous else {},
        chunker=chunker,
        deduplication=job.config.deduplication,
        max_dropped_fraction=job.config.max_dropped_fraction,
        progress=job.ws.progress,
    )
    _record(draft, summary, job, work)


def _prepare_missing(job: _Job, work: _Work, partial: PartialWork) -> None:
    there = prepared_shards(partial)
    missing = [shard for shard in work.shards if shard.key not in there]
    num_inputs = sum(len(shard.inputs) for shard in missing)
    if not missing:
        return
    num_workers = min(job.config.num_workers or usable_cores(), num_inputs)
    _parse(job.ws, job.config, job.model.path, partial, missing, num_workers)


def _parse(
    ws: Workspace,
    config: IngestConfig,
    model_path: Path,
    partial: PartialWork,
    shards: Sequence[Shard],
    num_workers: int,
) -> None:
    """Parse shards in a pool of processes; what comes of them is kept as partial work."""
    num_inputs = sum(len(shard.inputs) for shard in shards)
    pool = open_pool(ws.settings, config, model_path, num_workers=num_workers)
    reader = InputReader(ws.settings, ws.artifacts.objects)
    with pool, phase(ws.progress, "Parsing", total=num_inputs, unit="inputs") as progress:
        for shard in shards:
            process_shard(
                partial,
                shard,
                pool,
                scratch=ws.settings.scratch,
                prepare=reader.prepare,
                on_input=progress.advance,
            )


def _processed(job: _Job, work: _Work, partial: PartialWork) -> Iterator[ProcessedInput]:
    """What became of each input, in the order of the scan."""
    parsed = (
        processed
        for shard in work.shards
        for processed in read_shard(partial, shard, job.ws.settings.scratch)
    )
    for item in job.scan.inputs:
        if work.previous is not None and item.uri in work.reused:
            yield work.previous.processed(item.uri)
        else:
            yield next(parsed)


def _record(draft: ArtifactDraft, summary: CorpusSummary, job: _Job, work: _Work) -> None:
    draft.counts.update(
        num_inputs=summary.num_inputs,
        num_documents=summary.num_documents,
        num_chunks=summary.num_chunks,
        num_chunk_tokens=summary.num_chunk_tokens,
        **change_counts(summary.changes),
    )
    draft.dropped.update(summary.dropped)
    draft.ledger.update(
        inputs_read=job.scan.num_read,
        inputs_parsed=len(job.scan.inputs) - len(work.reused),
    )
    draft.details.update(
        {
            "encodings": dict(summary.encodings),
            "languages": dict(summary.languages),
            "media_types": dict(summary.media_types),
            "redactions": dict(summary.redactions),
            "largest_chunk_tokens": summary.largest_chunk_tokens,
            "tokenizer_identity": work.tokenizer,
            PROCESSING_DETAIL: work.processing,
            "previous": str(work.previous.ref) if work.previous else None,
        }
    )
