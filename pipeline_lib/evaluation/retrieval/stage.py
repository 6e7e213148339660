"""The stage `evaluate_retrieval`: queries, judgements and an index in, numbers and runs out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import RetrievalEvaluationConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.evaluation.lineage import trace_lineage
from pipeline_lib.evaluation.retrieval.corpus_view import CorpusView
from pipeline_lib.evaluation.retrieval.dataset_questions import dataset_judgements, selection_caveat
from pipeline_lib.evaluation.retrieval.gold import Gold, choose_level
from pipeline_lib.evaluation.retrieval.judgements import Judgements, find_files, read_judgements
from pipeline_lib.evaluation.retrieval.records import (
    METRICS_FILE,
    PER_QUERY_FILE,
    QRELS_FILE,
    REPORT_FILE,
    RUNS_FOLDER,
    QueryRecord,
    RetrievalSummary,
    write_query_records,
)
from pipeline_lib.evaluation.retrieval.report import RetrievalReport, render_retrieval_report
from pipeline_lib.evaluation.retrieval.runs import write_qrels, write_run
from pipeline_lib.evaluation.retrieval.searching import IndexAsker
from pipeline_lib.evaluation.retrieval.sweep import sample_queries
from pipeline_lib.evaluation.retrieval.sweep_run import SweepInputs, run_sweep
from pipeline_lib.evaluation.retrieval.systems import (
    Measured,
    measure_systems,
    query_records,
    system_comparisons,
    system_results,
)
from pipeline_lib.evaluation.statistics import Resampling
from pipeline_lib.models import resolve_model
from pipeline_lib.progress import phase
from pipeline_lib.retrieval.dense import TextEncoder
from pipeline_lib.retrieval.search import PassageSearcher, Searcher
from pipeline_lib.stage import (
    ArtifactDraft,
    StageResult,
    Workspace,
    code_version,
    library_versions,
    run_stage,
)

RETRIEVAL_EVALUATION_VERSION = 2
"""Raised when equal inputs may give another score, or the report another content."""
NAME_SUFFIX = "-retrieval"
_LONGEST_NAME = 63
SearcherOpener = Callable[[Workspace, ArtifactRef], PassageSearcher]


@dataclass(frozen=True)
class _Source:
    """Where queries and judgements come from."""

    title: str
    artifacts: dict[str, ArtifactRef]
    """Role to artifact."""
    files_sha256: str
    """Of files; empty without any."""
    read: Callable[[], Judgements]
    caveat: str = ""
    """See `RetrievalSummary`."""


def evaluate_retrieval(
    ws: Workspace,
    name: str,
    config: RetrievalEvaluationConfig,
    *,
    index: ArtifactRef,
    dataset: ArtifactRef | None = None,
    encoder: TextEncoder | None = None,
    open_searcher: SearcherOpener = Searcher.open,
) -> StageResult:
    """Measure the retrieval of an index: its branches, their fusion, and other settings.

    Makes the artifact `evaluation/<name>-retrieval`: metrics.json, per_query.parquet, runs/*.trec,
    qrels.trec, report.html. A killed evaluation goes on where it stopped.

    Args:
        ws: live services.
        name: the pipeline's name.
        config: which queries, which settings, how sure.
        index: what is searched.
        dataset: whose questions are asked where `config` names no judgements.
        encoder: embeds other chunks in a sweep; by default the index's model.
        open_searcher: opens the index.

    Raises:
        ConfigError: neither judgements nor a dataset, or a name that is too long.
        InputError: judgements are broken, missing, or about another corpus.
        VectorStoreError: the index's collection is gone or has changed.
    """
    artifact_name = f"{name}{NAME_SUFFIX}"
    if len(artifact_name) > _LONGEST_NAME:
        raise ConfigError(
            f"The evaluation of {name!r} would be called {artifact_name!r}, which is longer than "
            f"{_LONGEST_NAME} characters",
            hint="Give the pipeline a shorter name.",
        )
    source = _source(ws, config, dataset)
    inputs: dict[str, ArtifactRef | str] = {"index": index, **source.artifacts}
    if source.files_sha256:
        inputs["judgements"] = source.files_sha256
    if config.retrieval.rerank.model:
        reranker = resolve_model(ws.settings, config.retrieval.rerank.model, ws.progress)
        inputs["rerank_model"] = reranker.identity
    return run_stage(
        ws,
        kind="evaluation",
        name=artifact_name,
        stage="evaluate_retrieval",
        stage_version=RETRIEVAL_EVALUATION_VERSION,
        config=config,
        inputs=inputs,
        seed=config.seed,
        build=lambda draft: _build(ws, draft, config, index, source, encoder, open_searcher),
    )


def _source(
    ws: Workspace, config: RetrievalEvaluationConfig, dataset: ArtifactRef | None
) -> _Source:
    if config.has_files:
        files = find_files(*(_path(p) for p in (config.judgements, config.queries, config.qrels)))
        title = files.queries.resolve().parent.name
        return _Source(title, {}, files.sha256, lambda: read_judgements(files))
    if dataset is None:
        raise ConfigError(
            "A retrieval evaluation needs queries with judgements: there are neither files nor a "
            "dataset",
            hint="Give judgements (a folder with queries.jsonl and qrels.tsv), or a dataset.",
        )
    manifest = ws.artifacts.manifest(dataset)
    corpus = manifest.input_refs["corpus"]

    def read() -> Judgements:
        folders = ws.artifacts.directory(dataset), ws.artifacts.directory(corpus)
        return dataset_judgements(*folders, config.split)

    title = f"{dataset}, {config.split} split"
    return _Source(title, {"dataset": dataset}, "", read, selection_caveat(manifest))


def _build(
    ws: Workspace,
    draft: ArtifactDraft,
    config: RetrievalEvaluationConfig,
    index: ArtifactRef,
    source: _Source,
    encoder: TextEncoder | None,
    open_searcher: SearcherOpener,
) -> None:
    corpus_ref = ws.artifacts.manifest(index).input_refs["corpus"]
    with phase(ws.progress, "Reading judgements", None, "queries"):
        judgements = source.read()
        corpus = CorpusView.read(ws.artifacts.directory(corpus_ref))
        everything = corpus.gold(
            judgements, choose_level(judgements, config.level, corpus.chunk_ids)
        )
        everything.check(config.max_unmatched_fraction)
    chosen = sample_queries(list(everything.relevance), config.max_queries, config.seed)
    gold = everything.restricted(chosen)
    queries = {query: judgements.queries[query] for query in chosen}
    asker = IndexAsker(open_searcher(ws, index), queries, draft.partial, ws.progress)
    limits = config.sweep.prefetch_limits if config.sweep else ()
    branches = asker.branches(config.retrieval, max(config.retrieval.prefetch_limit, *limits, 1))
    systems = measure_systems(config, branches, gold, asker)
    resampling = Resampling(config.num_bootstrap_samples, config.confidence, config.seed)
    swept = None
    if config.sweep is not None:
        inputs = SweepInputs(
            index=index,
            judgements=judgements,
            corpus=corpus,
            chunking=ws.artifacts.manifest(corpus_ref).config.get("chunking"),
            gold=gold,
            branches=branches,
            asker=asker,
            queries=queries,
            encoder=encoder,
        )
        swept = run_sweep(ws, config, config.sweep, inputs, resampling)
    with phase(ws.progress, "Scoring and reporting", None, "queries"):
        summary = RetrievalSummary(
            evaluation_version=RETRIEVAL_EVALUATION_VERSION,
            source=source.title,
            caveat=source.caveat,
            level=gold.level,
            num_queries=len(queries),
            num_relevant=sum(
                gain > 0 for gains in gold.relevance.values() for gain in gains.values()
            ),
            num_chunks=len(corpus.chunks),
            num_unmatched=everything.num_unmatched,
            depth=config.depth,
            metric=config.metric,
            cutoffs=tuple(sorted(set(config.cutoffs))),
            confidence=config.confidence,
            num_bootstrap_samples=config.num_bootstrap_samples,
            systems=tuple(system_results(systems, resampling)),
            comparisons=tuple(system_comparisons(systems, config.cutoffs, resampling)),
            sweep=swept,
            dropped=_dropped(judgements, everything, queries),
        )
        records = list(query_records(systems, gold, queries, max(config.cutoffs)))
        _write(draft, gold, systems, summary, records)
        report = RetrievalReport(
            name=draft.ref.name.removesuffix(NAME_SUFFIX),
            reference=str(draft.ref),
            made_at=datetime.now(UTC),
            summary=summary,
            records=records,
            lineage=trace_lineage(ws, {"index": index, **source.artifacts}),
            config=config.model_dump(mode="json"),
            libraries=library_versions(),
            code_version=code_version(),
        )
        page = render_retrieval_report(report)
        (draft.directory / REPORT_FILE).write_text(page, encoding="utf-8")
    _account(draft, summary)


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


def _dropped(judgements: Judgements, gold: Gold, queries: Mapping[str, str]) -> dict[str, int]:
    """What was given and not asked, by reason."""
    dropped = judgements.dropped.copy()
    dropped["query_without_judgement_of_this_level"] = len(judgements.queries) - len(gold.relevance)
    dropped["beyond_max_queries"] = len(gold.relevance) - len(queries)
    return dict(+dropped)


def _write(
    draft: ArtifactDraft,
    gold: Gold,
    systems: Mapping[str, Measured],
    summary: RetrievalSummary,
    records: Sequence[QueryRecord],
) -> None:
    """All files but the report."""
    (draft.directory / METRICS_FILE).write_text(summary.model_dump_json(indent=1), encoding="utf-8")
    write_query_records(draft.directory / PER_QUERY_FILE, records)
    write_qrels(draft.directory / QRELS_FILE, gold.relevance)
    (draft.directory / RUNS_FOLDER).mkdir()
    for name, system in systems.items():
        write_run(draft.directory / RUNS_FOLDER / f"{name}.trec", system.rankings, name)


def _account(draft: ArtifactDraft, summary: RetrievalSummary) -> None:
    """What the manifest says about this evaluation."""
    draft.counts = {
        "num_queries": summary.num_queries,
        "num_relevant": summary.num_relevant,
        "num_unmatched": summary.num_unmatched,
        "num_systems": len(summary.systems),
    }
    draft.dropped.update(summary.dropped)
    draft.metrics = {
        f"{system.name}/{metric}": estimate.mean
        for system in summary.systems
        for metric, estimate in system.estimates.items()
    }
    if summary.sweep is not None:
        draft.counts["num_settings"] = len(summary.sweep.settings)
        draft.details["sweep"] = {
            "decision": summary.sweep.decision,
            "chosen": summary.sweep.chosen,
            "recommended": summary.sweep.recommended,
        }
