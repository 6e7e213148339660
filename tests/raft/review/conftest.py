"""Rows to review, and a dataset with its corpus that holds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IngestConfig, SynthesizeConfig
from pipeline_lib.corpus.schema import Corpus, Document
from pipeline_lib.raft.review.verdicts import Verdict
from pipeline_lib.raft.rows import SPLITS, RaftRow
from pipeline_lib.stage import Workspace
from tests.artifacts.made_artifacts import publish as publish_artifact
from tests.corpus.made_corpora import make_chunk, write_corpus
from tests.raft.made_rows import bare_passage, bare_row, write_splits

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SEALS = bare_passage("other", "Seals eat fish.", title="Seals", origin="retrieved", rank=1)
REFUSAL = "The documents do not contain the answer."


def make_row(number: int = 0, **changes: Any) -> RaftRow:
    """A row about document `doc-<number>`, its oracle second of two passages."""
    target = changes.get("target", "answer")
    values: dict[str, Any] = {
        "question": f"What does otter {number} eat?",
        "row_id": f"row-{number}",
        "row_key": f"key-{number}",
        "split": SPLITS[number % 3],
        "final_answer": REFUSAL if target == "refuse" else "crabs",
    }
    return bare_row(
        chunk_id=f"chunk-{number}",
        document_id=f"doc-{number}",
        title=f"Otters {number}",
        text=otter_text(number),
        quoted=f"Otter {number} eats crabs.",
        thought="The page says:",
        before=[SEALS],
        **(values | changes),
    )


def otter_text(number: int) -> str:
    return f"Otter {number} eats crabs. It sleeps on its back."


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


def otter_corpus(count: int) -> Corpus:
    """A document of one chunk per row."""
    documents = [
        Document(
            document_id=f"doc-{number}",
            source_uri=f"file:///otters/{number}.txt",
            title=f"Otters {number}",
            media_type="text/plain",
            text=otter_text(number),
            content_sha256="0" * 64,
        )
        for number in range(count)
    ]
    chunks = [
        make_chunk(f"chunk-{number}", otter_text(number), f"doc-{number}")
        for number in range(count)
    ]
    return Corpus(tuple(documents), tuple(chunks))


@pytest.fixture
def publish_rows(workspace: Workspace) -> Callable[..., ArtifactRef]:
    """Publishes rows as the dataset `demo`, made from a corpus with their oracles."""

    def publish(rows: Sequence[RaftRow], *, name: str = "demo", seed: int = 0) -> ArtifactRef:
        corpus = publish_artifact(
            workspace,
            "corpus",
            lambda draft: write_corpus(draft.directory, otter_corpus(len(rows))),
            name=name,
            config=IngestConfig(),
            inputs={"number": str(len(rows))},
        ).ref
        return publish_artifact(
            workspace,
            "dataset",
            lambda draft: write_splits(draft.directory, rows),
            name=name,
            config=SynthesizeConfig(),
            inputs={"corpus": corpus, "rows": json.dumps([r.model_dump_json() for r in rows])},
            seed=seed,
        ).ref

    return publish
