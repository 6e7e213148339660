"""A hashing encoder, small corpora with real indexes, and folders of queries and judgements."""

from __future__ import annotations

import json
import re
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.schema import (
    CHUNK_SCHEMA,
    CHUNKS_FILE,
    DOCUMENT_SCHEMA,
    DOCUMENTS_FILE,
    Chunk,
    Document,
)
from pipeline_lib.raft.rows import Passage, Provenance, Quote, RaftRow, ReasoningStep
from pipeline_lib.stage import ArtifactDraft, Workspace, run_stage

DIMENSION = 32


class HashingEncoder:
    """Bag of hashed words: texts that share words are close."""

    identity = "hashing-1"
    document_recipe = "plain"
    dimension = DIMENSION

    def encode_documents(
        self, texts: Sequence[str], on_encoded: Callable[[int], None] | None = None
    ) -> np.ndarray:
        if on_encoded is not None:
            on_encoded(len(texts))
        return self.encode_queries(texts)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.full((len(texts), DIMENSION), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                vectors[row, zlib.crc32(word.encode()) % DIMENSION] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def encoder() -> HashingEncoder:
    return HashingEncoder()


def make_corpus(texts: Mapping[str, Sequence[str]]) -> tuple[list[Document], list[Chunk]]:
    """One document per name, one chunk per text of it, joined by blank lines."""
    documents, chunks = [], []
    for name, parts in texts.items():
        document_id = uuid.uuid5(uuid.NAMESPACE_URL, name).hex
        documents.append(
            Document(
                document_id=document_id,
                source_uri=f"file:docs/{name}.md",
                title=name,
                media_type="text/markdown",
                text="\n\n".join(parts),
                content_sha256="0" * 64,
            )
        )
        start = 0
        for ordinal, text in enumerate(parts):
            chunks.append(
                Chunk(
                    chunk_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}#{text}")),
                    document_id=document_id,
                    ordinal=ordinal,
                    start=start,
                    end=start + len(text),
                    text=text,
                    num_tokens=len(text.split()),
                )
            )
            start += len(text) + 2
    return documents, chunks


@pytest.fixture
def publish_corpus() -> Callable[[Workspace, Mapping[str, Sequence[str]]], ArtifactRef]:
    """A corpus artifact of these texts, as the ingest stage would publish it."""

    def publish(ws: Workspace, texts: Mapping[str, Sequence[str]]) -> ArtifactRef:
        documents, chunks = make_corpus(texts)

        def build(draft: ArtifactDraft) -> None:
            for rows, schema, file in (
                (documents, DOCUMENT_SCHEMA, DOCUMENTS_FILE),
                (chunks, CHUNK_SCHEMA, CHUNKS_FILE),
            ):
                table = pa.Table.from_pylist([asdict(row) for row in rows], schema)
                pq.write_table(table, draft.directory / file)

        return run_stage(
            ws,
            kind="corpus",
            name="docs",
            stage="ingest",
            stage_version=1,
            config=IngestConfig(),
            inputs={"content": repr(texts)},
            build=build,
        ).ref

    return publish


@pytest.fixture
def make_row() -> Callable[..., RaftRow]:
    """A question about one passage, which may be quoted."""

    def make(
        row_id: str,
        split: str,
        text: str,
        quote: str | None = None,
        *,
        chunk_id: str = "c1",
        document_id: str = "d1",
    ) -> RaftRow:
        passage = Passage(
            chunk_id=chunk_id,
            document_id=document_id,
            title="t",
            text=text,
            role="oracle",
            origin="oracle",
        )
        quoted = None
        if quote is not None:
            start = text.find(quote)
            quoted = Quote(chunk_id=chunk_id, start=start, end=start + len(quote), text=quote)
        return RaftRow(
            row_id=row_id,
            row_key=row_id,
            split=split,  # type: ignore[arg-type]
            task="answer",
            kind="factual",
            style="plain",
            question=f"{row_id}?",
            context=(passage,),
            oracle_chunk_ids=(chunk_id,),
            oracle_document_ids=(document_id,),
            source_document_id=document_id,
            oracle_present=True,
            target="answer",
            reasoning=(ReasoningStep(text="Because:", quote=quoted),),
            final_answer="red",
            provenance=Provenance(
                question_source="user",
                answer_source="user",
                teacher_model="",
                prompt_version="1",
                seed=1,
            ),
        )

    return make


@pytest.fixture
def write_judgements(tmp_path: Path) -> Callable[..., Path]:
    """A folder in BEIR's layout, with spans where there are any."""

    def write(
        queries: Mapping[str, str],
        qrels: Sequence[tuple[str, str, int]] = (),
        spans: Sequence[Mapping[str, object]] = (),
    ) -> Path:
        folder = tmp_path / "judgements"
        folder.mkdir(exist_ok=True)
        rows = (json.dumps({"_id": query, "text": text}) for query, text in queries.items())
        (folder / "queries.jsonl").write_text("\n".join(rows) + "\n")
        if qrels:
            lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
            (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")
        if spans:
            (folder / "spans.jsonl").write_text("\n".join(map(json.dumps, spans)) + "\n")
        return folder

    return write
