"""Rows to review, and a dataset with its corpus that holds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IngestConfig, SynthesizeConfig
from pipeline_lib.corpus.schema import (
    CHUNK_SCHEMA,
    CHUNKS_FILE,
    DOCUMENT_SCHEMA,
    DOCUMENTS_FILE,
    Chunk,
    Document,
)
from pipeline_lib.raft.review.verdicts import Verdict
from pipeline_lib.raft.rows import (
    SPLITS,
    Passage,
    Provenance,
    Quote,
    RaftRow,
    ReasoningStep,
    split_file,
    write_rows,
)
from pipeline_lib.stage import ArtifactDraft, Workspace, run_stage

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
REFUSAL = "The documents do not contain the answer."


def make_row(number: int = 0, **changes: Any) -> RaftRow:
    """A row about document `doc-<number>`, its oracle second of two passages."""
    text = f"Otter {number} eats crabs. It sleeps on its back."
    oracle = Passage(
        chunk_id=f"chunk-{number}",
        document_id=f"doc-{number}",
        title=f"Otters {number}",
        text=text,
        role="oracle",
        origin="oracle",
    )
    distractor = Passage(
        chunk_id="other",
        document_id="doc-other",
        title="Seals",
        text="Seals eat fish.",
        role="distractor",
        origin="retrieved",
        rank=1,
    )
    quote_text = f"Otter {number} eats crabs."
    quote = Quote(chunk_id=oracle.chunk_id, start=0, end=len(quote_text), text=quote_text)
    target = changes.get("target", "answer")
    is_there = target == "answer"
    values: dict[str, Any] = {
        "row_id": f"row-{number}",
        "row_key": f"key-{number}",
        "split": SPLITS[number % 3],
        "task": "answer",
        "kind": "factual",
        "style": "plain",
        "question": f"What does otter {number} eat?",
        "context": (distractor, oracle) if is_there else (distractor,),
        "oracle_chunk_ids": (oracle.chunk_id,),
        "oracle_document_ids": (oracle.document_id,),
        "source_document_id": oracle.document_id,
        "oracle_present": is_there,
        "target": target,
        "reasoning": (ReasoningStep(text="The page says:", quote=quote),) if is_there else (),
        "final_answer": REFUSAL if target == "refuse" else "crabs",
        "provenance": Provenance(
            question_source="teacher",
            answer_source="teacher",
            teacher_model="scripted:1",
            prompt_version="v1",
            seed=1,
        ),
    }
    return RaftRow(**(values | changes))


def make_verdict(number: int = 0, decision: str = "accept", **changes: Any) -> Verdict:
    """A verdict about `make_row(number)`, given at noon plus `minutes`."""
    values: dict[str, Any] = {
        "row_id": f"row-{number}",
        "question": f"What does otter {number} eat?",
        "document_id": f"doc-{number}",
        "decision": decision,
        "decided_at": NOON + timedelta(minutes=changes.pop("minutes", 0)),
    }
    return Verdict(**(values | changes))


@pytest.fixture
def row() -> Callable[..., RaftRow]:
    return make_row


@pytest.fixture
def verdict() -> Callable[..., Verdict]:
    return make_verdict


def _documents(rows: Sequence[RaftRow]) -> tuple[list[Document], list[Chunk]]:
    documents, chunks = [], []
    for number in range(len(rows)):
        text = f"Otter {number} eats crabs. It sleeps on its back."
        documents.append(
            Document(
                document_id=f"doc-{number}",
                source_uri=f"file:///otters/{number}.txt",
                title=f"Otters {number}",
                media_type="text/plain",
                text=text,
                content_sha256="0" * 64,
            )
        )
        chunks.append(
            Chunk(
                chunk_id=f"chunk-{number}",
                document_id=f"doc-{number}",
                ordinal=0,
                start=0,
                end=len(text),
                text=text,
                num_tokens=9,
            )
        )
    return documents, chunks


@pytest.fixture
def publish_rows(workspace: Workspace) -> Callable[..., ArtifactRef]:
    """Publishes rows as the dataset `demo`, made from a corpus with their oracles."""

    def publish(rows: Sequence[RaftRow], *, name: str = "demo", seed: int = 0) -> ArtifactRef:
        def build_corpus(draft: ArtifactDraft) -> None:
            documents, chunks = _documents(rows)
            for records, schema, file in (
                (documents, DOCUMENT_SCHEMA, DOCUMENTS_FILE),
                (chunks, CHUNK_SCHEMA, CHUNKS_FILE),
            ):
                table = pa.Table.from_pylist([asdict(record) for record in records], schema)
                pq.write_table(table, draft.directory / file)

        def build(draft: ArtifactDraft) -> None:
            for split in SPLITS:
                chosen = [each for each in rows if each.split == split]
                write_rows(draft.directory / split_file(split), chosen)

        corpus = run_stage(
            workspace,
            kind="corpus",
            name=name,
            stage="ingest",
            stage_version=1,
            config=IngestConfig(),
            inputs={"number": str(len(rows))},
            build=build_corpus,
        ).ref
        return run_stage(
            workspace,
            kind="dataset",
            name=name,
            stage="synthesize",
            stage_version=1,
            config=SynthesizeConfig(),
            inputs={"corpus": corpus, "rows": json.dumps([r.model_dump_json() for r in rows])},
            build=build,
            seed=seed,
        ).ref

    return publish
