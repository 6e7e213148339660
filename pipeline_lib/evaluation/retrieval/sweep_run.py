"""Tries every setting of a sweep on one index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import RetrievalEvaluationConfig, SweepConfig
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.corpus_view import CorpusView
from pipeline_lib.evaluation.retrieval.exact import Branches
from pipeline_lib.evaluation.retrieval.gold import Gold, span_gold
from pipeline_lib.evaluation.retrieval.judgements import Judgements
from pipeline_lib.evaluation.retrieval.rechunking import EmbedPassages, Recutter
from pipeline_lib.evaluation.retrieval.records import SweepResult
from pipeline_lib.evaluation.retrieval.searching import IndexAsker
from pipeline_lib.evaluation.retrieval.sweep import (
    Setting,
    TriedSetting,
    conclude,
    settings_to_try,
    split_queries,
)
from pipeline_lib.evaluation.retrieval.systems import mean_context_tokens, measure_search
from pipeline_lib.evaluation.statistics import Resampling
from pipeline_lib.models import resolve_model
from pipeline_lib.progress import phase
from pipeline_lib.retrieval.dense import DenseEncoder, FloatMatrix, TextEncoder
from pipeline_lib.retrieval.embedder import Embedder
from pipeline_lib.retrieval.embedding_cache import EmbeddingCache
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.stage import Workspace


@dataclass(frozen=True, kw_only=True)
class SweepInputs:
    """What an evaluation has at hand when its sweep begins."""

    index: ArtifactRef
    judgements: Judgements
    corpus: CorpusView
    chunking: Mapping[str, Any] | None
    """How the corpus was cut."""
    gold: Gold
    branches: Mapping[str, Branches]
    asker: IndexAsker
    queries: Mapping[str, str]
    encoder: TextEncoder | None


def run_sweep(
    ws: Workspace,
    config: RetrievalEvaluationConfig,
    sweep: SweepConfig,
    inputs: SweepInputs,
    resampling: Resampling,
) -> SweepResult:
    """Measure every setting on all queries, then choose by the development ones.

    Raises:
        InputError: too few queries, or judgements that say nothing about other chunks.
        ConfigError: a chunk setting does not fit the model or memory.
    """
    dev, held_out = split_queries(inputs.queries, sweep.dev_fraction, config.seed)
    settings = [
        setting
        for setting in settings_to_try(config.retrieval, sweep)
        if setting.chunking is None or setting.chunking.model_dump() != inputs.chunking
    ]
    recuts = [setting for setting in settings if setting.chunking is not None]
    gold = _comparable_gold(inputs, has_recuts=bool(recuts))
    tried = []
    with phase(ws.progress, "Trying settings", len(settings), "settings") as ticker:
        for setting in settings:
            if setting.chunking is None:
                ticker.note(setting.name)
                tried.append(_try(setting, config, inputs, gold))
                ticker.advance()
    if recuts:
        tried += _try_recuts(ws, recuts, config, sweep, inputs, gold)
    return conclude(
        tried,
        metric=config.metric,
        level=gold.level,
        dev=dev,
        held_out=held_out,
        resampling=resampling,
    )


def _comparable_gold(inputs: SweepInputs, *, has_recuts: bool) -> Gold:
    """Relevance that means the same however documents are cut."""
    if not has_recuts or inputs.gold.level != "chunks":
        return inputs.gold
    if not inputs.judgements.spans:
        raise InputError(
            "Chunk sizes cannot be compared by judgements of chunks alone",
            hint="Bring judgements of documents or spans, or sweep without chunk_sizes.",
        )
    return inputs.corpus.gold(inputs.judgements, "spans").restricted(list(inputs.queries))


def _try(
    setting: Setting, config: RetrievalEvaluationConfig, inputs: SweepInputs, gold: Gold
) -> TriedSetting:
    measured = measure_search(
        setting.name, setting.retrieval, inputs.branches, gold, inputs.asker, config
    )
    k = max(config.cutoffs)
    tokens = mean_context_tokens(measured, inputs.corpus.num_tokens, k)
    return TriedSetting(setting, measured.scored, tokens)


def _try_recuts(
    ws: Workspace,
    settings: Sequence[Setting],
    config: RetrievalEvaluationConfig,
    sweep: SweepConfig,
    inputs: SweepInputs,
    gold: Gold,
) -> list[TriedSetting]:
    record = IndexRecord.load(ws.artifacts.directory(inputs.index))
    model = resolve_model(ws.settings, record.embedding_model, ws.progress)
    encoder = inputs.encoder or DenseEncoder(model.path, model.identity)
    recutter = Recutter(
        inputs.corpus,
        inputs.queries,
        model_path=model.path,
        encoder=encoder,
        embed=_cached(ws, encoder),
        bm25=Bm25Encoder(record.bm25_language),
        max_chunks=sweep.max_chunks,
    )
    located = None if gold.level == "documents" else inputs.corpus.locate(inputs.judgements)
    tried = []
    with phase(ws.progress, "Trying chunk settings", len(settings), "settings") as ticker:
        for setting in settings:
            if setting.chunking is None:
                continue
            ticker.note(setting.name)
            recut = recutter.recut(setting.chunking, config.retrieval.prefetch_limit)
            relevant = gold
            if located is not None:
                made = span_gold(inputs.judgements, located, recut.chunks)
                relevant = made.restricted(list(inputs.queries))
            measured = measure_search(
                setting.name, setting.retrieval, recut.branches, relevant, None, config
            )
            tokens = mean_context_tokens(measured, recut.num_tokens, max(config.cutoffs))
            tried.append(TriedSetting(setting, measured.scored, tokens))
            ticker.advance()
    return tried


def _cached(ws: Workspace, encoder: TextEncoder) -> EmbedPassages:
    """Embeds through the cache, which keeps every window of texts as it is done."""
    cache = EmbeddingCache.open(ws.artifacts.objects, ws.settings.embedding_cache, encoder)
    embedder = Embedder(encoder, cache)

    def embed(texts: Sequence[str]) -> FloatMatrix:
        embedder.prepare(texts, lambda _: None)
        return embedder.vectors(texts)

    return embed
