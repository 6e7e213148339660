"""The stage on a real index in Qdrant's local mode, with artifacts in real S3."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from ir_measures import P, R, Success, nDCG

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import (
    IndexConfig,
    RetrievalConfig,
    RetrievalEvaluationConfig,
    SweepConfig,
    SynthesizeConfig,
)
from pipeline_lib.corpus.schema import CHUNKS_FILE, read_rows
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.evaluation.retrieval.records import (
    RetrievalSummary,
    read_query_records,
    read_retrieval_summary,
)
from pipeline_lib.evaluation.retrieval.runs import read_run
from pipeline_lib.evaluation.retrieval.stage import evaluate_retrieval
from pipeline_lib.raft.rows import SPLITS, split_file, write_rows
from pipeline_lib.retrieval.search import Hit, Searcher
from pipeline_lib.retrieval.stage import build_index
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage

TOPICS = {
    "with-statement": "The with statement wraps a block with a context manager.",
    "for loop": "A for loop iterates over the items of a sequence, such as a list.",
    "try": "The try statement handles an exception that a block raises.",
    "lambda": "A lambda expression yields a function object without a name.",
    "class": "A class definition binds a name to a class object with methods.",
    "import": "The import statement finds a module and binds its name.",
}
QUERIES = {
    "q1": "What wraps a block with a context manager?",
    "q2": "How do I iterate over items of a list?",
    "q 3": "Which statement handles an exception?",
    "q4": "What yields a function without name?",
    "q5": "What binds a class object?",
    "q6": "What finds a module?",
    "unjudged": "Who asks this?",
}
QRELS = [
    ("q1", "with-statement", 2), ("q1", "try", 1), ("q2", "for loop", 1), ("q 3", "try", 1),
    ("q4", "lambda", 1), ("q5", "class", 1), ("q6", "import", 1), ("q6", "lost", 1),
]  # fmt: skip
CONFIG = RetrievalEvaluationConfig(
    cutoffs=(1, 3),
    depth=6,
    num_bootstrap_samples=200,
    max_unmatched_fraction=0.2,
    retrieval=RetrievalConfig(prefetch_limit=6),
)


@pytest.fixture
def index(workspace: Workspace, publish_corpus: Any, encoder: Any) -> ArtifactRef:
    filler = "Beyond that it says nothing, at some length, about many other things."
    corpus = publish_corpus(workspace, {name: [text, filler] for name, text in TOPICS.items()})
    return build_index(workspace, "docs", IndexConfig(), corpus, encoder=encoder).ref


@pytest.fixture
def run(workspace: Workspace, index: ArtifactRef, encoder: Any) -> Callable[..., StageResult]:
    def run(config: RetrievalEvaluationConfig, **fields: Any) -> StageResult:
        return evaluate_retrieval(
            workspace,
            "docs",
            config,
            index=index,
            encoder=encoder,
            open_searcher=lambda ws, ref: Searcher.open(ws, ref, encoder=encoder),
            **fields,
        )

    return run


def _summary(workspace: Workspace, result: StageResult) -> RetrievalSummary:
    return read_retrieval_summary(workspace.artifacts.directory(result.ref))


def test_document_judgements_give_runs_and_numbers_that_ir_measures_confirms(
    workspace: Workspace, run: Any, write_judgements: Any
) -> None:
    folder = write_judgements(QUERIES, QRELS)
    result = run(CONFIG.model_copy(update={"judgements": str(folder)}))
    assert result.ref.name == "docs-retrieval"
    assert result.counts["num_queries"] == 6
    assert result.counts["num_unmatched"] == 1
    assert result.dropped == {"query_without_relevant_document": 1}
    files = workspace.artifacts.directory(result.ref)
    summary = read_retrieval_summary(files)
    assert summary.caveat == ""
    assert summary.level == "documents"
    assert [system.name for system in summary.systems] == ["configured", "dense", "sparse"]
    qrels = list(ir_measures.read_trec_qrels(str(files / "qrels.trec")))
    names = {"ndcg@3": nDCG @ 3, "recall@3": R @ 3, "precision@3": P @ 3, "success@3": Success @ 3}
    for system in summary.systems:
        path = files / "runs" / f"{system.name}.trec"
        trec = ir_measures.calc_aggregate(
            names.values(), qrels, ir_measures.read_trec_run(str(path))
        )
        for name, measure in names.items():
            assert system.estimates[name].mean == pytest.approx(trec[measure], abs=1e-6)
            assert result.metrics[f"{system.name}/{name}"] == system.estimates[name].mean
        # A document counts once, under the name it has in the judgements.
        ranking = [unit for unit, _ in read_run(path)["q 3"]]
        assert len(set(ranking)) == len(ranking)
        assert set(ranking) <= set(TOPICS)
    assert summary.systems[0].estimates["success@1"].mean >= 5 / 6
    records = read_query_records(files / "per_query.parquet")
    assert len(records) == 6 * 3
    [first] = [r for r in records if (r.query_id, r.system) == ("q1", "configured")]
    assert first.first_relevant_rank == 1
    assert first.num_relevant == 2
    assert len(first.retrieved) == 3


def test_the_report_stands_alone_and_escapes_what_queries_say(
    workspace: Workspace, run: Any, write_judgements: Any
) -> None:
    queries = {**QUERIES, "q5": "<script>alert(1)</script> with statement"}
    folder = write_judgements(queries, QRELS)
    result = run(CONFIG.model_copy(update={"judgements": str(folder), "sweep": SweepConfig()}))
    page = (workspace.artifacts.directory(result.ref) / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "Sweep of settings" in page
    assert "adjusted for all 10 comparisons" in page


def test_the_same_evaluation_is_reused_and_other_judgements_are_not(
    run: Any, write_judgements: Any
) -> None:
    config = CONFIG.model_copy(update={"judgements": str(write_judgements(QUERIES, QRELS))})
    first = run(config)
    assert run(config).reused
    write_judgements(QUERIES, [*QRELS, ("q2", "try", 1)])
    other = run(config)
    assert not other.reused
    assert other.ref != first.ref


def test_an_interrupted_search_goes_on_where_it_was(
    workspace: Workspace, index: ArtifactRef, encoder: Any, write_judgements: Any
) -> None:
    """The branches that were searched before are not searched again."""
    config = CONFIG.model_copy(update={"judgements": str(write_judgements(QUERIES, QRELS))})

    class Searching:
        def __init__(self, fails_at: int | None) -> None:
            self.modes: list[str] = []
            self.fails_at = fails_at

        def __call__(self, ws: Workspace, ref: ArtifactRef) -> Any:
            self.searcher = Searcher.open(ws, ref, encoder=encoder)
            return self

        def search(
            self, queries: Sequence[str], *, limit: int, config: RetrievalConfig
        ) -> list[list[Hit]]:
            if len(self.modes) == self.fails_at:
                raise KeyboardInterrupt
            self.modes.append(config.mode)
            return self.searcher.search(queries, limit=limit, config=config)

    killed = Searching(fails_at=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate_retrieval(workspace, "docs", config, index=index, open_searcher=killed)
    again = Searching(fails_at=None)
    evaluate_retrieval(workspace, "docs", config, index=index, open_searcher=again)
    assert (killed.modes, again.modes) == (["dense"], ["sparse"])


def test_what_is_fused_here_is_what_a_search_finds(
    workspace: Workspace, run: Any, index: ArtifactRef, encoder: Any, write_judgements: Any
) -> None:
    config = CONFIG.model_copy(update={"judgements": str(write_judgements(QUERIES, QRELS))})
    files = workspace.artifacts.directory(run(config).ref)
    searcher = Searcher.open(workspace, index, encoder=encoder)
    [hits] = searcher.search([QUERIES["q1"]], limit=6, config=config.retrieval)
    titles = list(dict.fromkeys(hit.title for hit in hits))
    assert [unit for unit, _ in read_run(files / "runs" / "configured.trec")["q1"]] == titles


def test_a_sweep_tries_fusions_mmr_and_chunks_and_keeps_what_it_cannot_beat(
    workspace: Workspace, run: Any, write_judgements: Any
) -> None:
    spans = [
        {"id": f"q{n}", "doc_id": name, "spans": [{"start": 0, "end": len(text), "text": text}]}
        for n, (name, text) in enumerate(TOPICS.items(), start=1)
    ]
    queries = {f"q{n}": text for n, text in enumerate(QUERIES.values(), start=1)}
    folder = write_judgements(queries, spans=spans)
    sweep = SweepConfig(
        fusions=("dbsf",), dense_weights=(1.0,), mmr_lambdas=(0.5,), chunk_sizes=(16, 64)
    )
    result = run(CONFIG.model_copy(update={"judgements": str(folder), "sweep": sweep}))
    summary = _summary(workspace, result)
    assert summary.level == "spans"
    assert summary.sweep is not None
    assert {setting.name for setting in summary.sweep.settings} == {
        "in use", "dense", "sparse", "dbsf, 6 candidates, MMR 0.5",
        "chunks of 16 tokens", "chunks of 64 tokens",
    }  # fmt: skip
    assert (summary.sweep.num_dev, summary.sweep.num_held_out) == (3, 3)
    # Three queries prove nothing.
    assert summary.sweep.decision in ("already_best", "no_clear_difference")
    assert summary.sweep.recommended == {}
    tokens = {setting.name: setting.context_tokens for setting in summary.sweep.settings}
    assert 0 < tokens["chunks of 16 tokens"] < tokens["chunks of 64 tokens"]


@pytest.fixture
def publish_dataset(workspace: Workspace, index: ArtifactRef, make_row: Any) -> Any:
    """A dataset artifact with a test question about each passage of the index's corpus."""
    corpus = workspace.artifacts.manifest(index).input_refs["corpus"]

    def publish(config: SynthesizeConfig) -> ArtifactRef:
        def build(draft: ArtifactDraft) -> None:
            columns = ["chunk_id", "document_id", "text"]
            chunks = read_rows(workspace.artifacts.directory(corpus) / CHUNKS_FILE, columns)
            rows = [make_row(f"r{n}", "test", **chunk) for n, chunk in enumerate(chunks)]
            for split in SPLITS:
                write_rows(draft.directory / split_file(split), rows if split == "test" else [])

        return run_stage(
            workspace,
            kind="dataset",
            name="docs",
            stage="synthesize",
            stage_version=1,
            config=config,
            inputs={"corpus": corpus, "questions": config.qa_path or ""},
            build=build,
        ).ref

    return publish


@pytest.mark.parametrize(
    ("changes", "caveat"),
    [
        (
            {"gates": {"round_trip_top_k": 3}, "retrieval": {"mode": "dense"}},
            "These questions flatter dense search: the dataset kept only those whose passages "
            "dense search found among its first 3.",
        ),
        ({"gates": {"round_trip_top_k": 0}}, ""),
        ({"qa_path": "mine.jsonl"}, ""),
    ],
)
def test_questions_that_a_search_had_to_find_are_said_to_flatter_it(
    workspace: Workspace, run: Any, publish_dataset: Any, changes: dict[str, Any], caveat: str
) -> None:
    dataset = publish_dataset(SynthesizeConfig.model_validate(changes))
    files = workspace.artifacts.directory(run(CONFIG, dataset=dataset).ref)
    assert read_retrieval_summary(files).caveat == caveat
    page = (files / "report.html").read_text()
    assert caveat in page
    assert ("flatter" in page) == bool(caveat)


def test_what_cannot_be_measured_by_is_refused(
    run: Any, write_judgements: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="neither files nor a dataset"):
        run(CONFIG)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"has none of queries.jsonl, queries.tsv"):
        run(CONFIG.model_copy(update={"judgements": str(empty)}))
    for qrels, words in (
        ([("q1", "elsewhere", 1)], "1 of 1 judged documents are not in the corpus"),
        ([("q1", "with-statement", 0)], "None of the 7 queries"),
    ):
        folder = write_judgements(QUERIES, qrels)
        with pytest.raises(InputError, match=words):
            run(CONFIG.model_copy(update={"judgements": str(folder)}))


def test_a_name_that_leaves_no_room_for_its_ending_is_refused(workspace: Workspace) -> None:
    index = ArtifactRef(kind="index", name="docs", fingerprint="0" * 32)
    with pytest.raises(ConfigError, match="longer than 63 characters"):
        evaluate_retrieval(workspace, "d" * 60, CONFIG, index=index)
