"""The pipeline as its user runs it: real Prefect, S3, Qdrant, MiniLM, DeepSpeed on two ranks.

Only the teacher is scripted, behind real HTTP, and the model that learns is tiny.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.answer import answer
from flows.pipeline import pipeline
from flows.summary import PipelineSummary
from pipeline_lib.config import AnswerConfig, PipelineConfig
from pipeline_lib.raft.rows import SPLITS, RaftRow, read_rows, split_file
from pipeline_lib.settings import Settings, load_settings
from pipeline_lib.stage import Workspace

from .conftest import FACT, PLACES, ScriptedTeacher

pytestmark = pytest.mark.slow


def make_config(corpus_folder: Path, tiny_model_path: Path, **synthesize: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "name": "e2e",
            "ingest": {"sources": [str(corpus_folder)], "chunking": {"size_tokens": 48}},
            "synthesize": {
                "teacher": {"kind": "endpoint", "model": "scripted"},
                "num_questions": 14,
                "min_rows": 6,
                "questions": {"kinds": {"factual": 1}},
                "split": {"validation_fraction": 0.2},
                **synthesize,
            },
            "finetune": {
                "base_model": str(tiny_model_path),
                "supervised": {"max_steps": 2},
                "batch": {"global_batch_size": 4, "max_seq_len": 4096},
                "checkpoints": {"every_steps": 1},
            },
            "evaluate": {"max_new_tokens": 8, "num_bootstrap_samples": 200},
        }
    )


def run(config: PipelineConfig) -> PipelineSummary:
    result = pipeline(config)
    assert isinstance(result, PipelineSummary)
    return result


def rows_of(ws: Workspace, summary: PipelineSummary) -> list[RaftRow]:
    folder = ws.artifacts.directory(summary.dataset.ref)
    return [row for split in SPLITS for row in read_rows(folder / split_file(split))]


def test_from_documents_to_a_decision_and_then_for_free(
    prefect_api: str,
    settings: Settings,
    corpus_folder: Path,
    tiny_model_path: Path,
    teacher: ScriptedTeacher,
) -> None:
    config = make_config(corpus_folder, tiny_model_path)
    summary = run(config)
    ws = Workspace.open(settings=load_settings())

    assert summary.corpus.counts["num_inputs"] == len(PLACES) + 1
    assert summary.corpus.counts["num_documents"] == len(PLACES)
    assert summary.corpus.dropped == {"binary": 1}
    assert summary.index.counts["num_chunks"] == summary.corpus.counts["num_chunks"]
    _assert_rows_are_sound(rows_of(ws, summary))
    assert summary.model.counts["num_steps"] == 2
    assert {"base/token_f1", "candidate/token_f1"} <= summary.evaluation.metrics.keys()
    assert not summary.promotion.is_promoted  # eight bytes of a random model are no answer
    assert "token_f1" in " ".join(summary.promotion.reasons)
    report = ws.artifacts.directory(summary.evaluation.ref) / "report.html"
    assert "What is the" in report.read_text()

    lineage = ws.artifacts.parents(summary.evaluation.ref)
    assert lineage["model"] == summary.model.ref
    assert ws.artifacts.parents(summary.model.ref)["dataset"] == summary.dataset.ref
    assert ws.artifacts.parents(summary.dataset.ref)["corpus"] == summary.corpus.ref
    assert ws.artifacts.partial(summary.model.ref).keys() == []

    paid = teacher.num_requests
    assert paid > 0
    again = run(config)
    assert again.is_unchanged
    assert teacher.num_requests == paid
    assert [r.ref for r in again.stages.values()] == [r.ref for r in summary.stages.values()]

    served = answer(AnswerConfig(question=rows_of(ws, summary)[0].question, name="e2e",
                                 model="base", max_new_tokens=8))  # fmt: skip
    assert any(FACT.search(passage.text) for passage in served.passages)


def _assert_rows_are_sound(rows: list[RaftRow]) -> None:
    """What reading validates (quotes verbatim, one oracle at most) holds; and beyond that:"""
    assert {row.split for row in rows} == set(SPLITS)
    documents = {s: {r.oracle_document_id for r in rows if r.split == s} for s in SPLITS}
    assert not documents["train"] & documents["test"]
    assert not documents["train"] & documents["validation"]
    for row in rows:
        assert len(row.context) == 3
        if row.target == "answer":
            assert row.quotes
            oracle = next(p for p in row.context if p.role == "oracle")
            assert row.final_answer in oracle.text
        for passage in row.context:
            if passage.role == "distractor":
                assert row.target != "answer" or row.final_answer not in passage.text
    assert all(row.oracle_present for row in rows if row.split != "train")


def test_a_changed_document_changes_what_depends_on_it(
    prefect_api: str,
    settings: Settings,
    corpus_folder: Path,
    teacher: ScriptedTeacher,
) -> None:
    """Ingest and index alone: one edited document of seven re-embeds its own chunks only."""
    from flows.index import index
    from flows.ingest import ingest
    from pipeline_lib.config import IngestConfig

    config = IngestConfig.model_validate(
        {"sources": [str(corpus_folder)], "chunking": {"size_tokens": 48}}
    )
    first = ingest(name="edits", config=config)
    index(name="edits")
    page = corpus_folder / "norhaven.md"
    page.write_text(page.read_text().replace("red and white", "black and yellow"))
    second = ingest(name="edits", config=config)
    assert second.ref != first.ref
    synced = index(name="edits")
    assert synced.counts["num_embedded"] == 1
    assert synced.counts["num_deleted"] == 1
