"""Small corpora with true offsets, rows about them, and datasets of both in a real store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
from pipeline_lib.config import IngestConfig, SynthesizeConfig
from pipeline_lib.corpus.documents import document_id
from pipeline_lib.corpus.schema import Chunk, Corpus, Document
from pipeline_lib.raft.candidates import quote_of
from pipeline_lib.raft.contexts.drafting import Remapped
from pipeline_lib.raft.dataset.lineage import LineageWriter
from pipeline_lib.raft.dataset.previous import RECIPE_DETAIL, PreviousDataset
from pipeline_lib.raft.dataset.splitting import split_groups
from pipeline_lib.raft.keys import make_row_id
from pipeline_lib.raft.rendering import REFUSAL_ANSWER
from pipeline_lib.raft.rows import Passage, Provenance, RaftRow, ReasoningStep, Split
from pipeline_lib.stage import ArtifactDraft, Workspace, stage_ref
from tests.artifacts.made_artifacts import publish
from tests.corpus.made_corpora import make_chunk, write_corpus
from tests.raft.made_rows import write_splits

RECIPE = "recipe-1"


def uri(name: str) -> str:
    return f"file:///library/{name}.txt"


def corpus_of(
    pages: Mapping[str, Sequence[str]], titles: Mapping[str, str] | None = None
) -> Corpus:
    """A document per name, cut into the given texts, which a line break parts."""
    documents, chunks = [], []
    for name, texts in pages.items():
        whole = "\n".join(texts)
        documents.append(
            Document(
                document_id=document_id(uri(name)),
                source_uri=uri(name),
                title=(titles or {}).get(name, name.title()),
                media_type="text/plain",
                text=whole,
                content_sha256=hashlib.sha256(whole.encode()).hexdigest(),
            )
        )
        start = 0
        for ordinal, text in enumerate(texts):
            mark = hashlib.sha256(f"{name}\0{text}".encode()).hexdigest()[:12]
            about = document_id(uri(name))
            chunks.append(make_chunk(f"{name}-{mark}", text, about, ordinal=ordinal, start=start))
            start += len(text) + 1
    return Corpus(tuple(documents), tuple(chunks))


def chunks_of(corpus: Corpus, name: str) -> list[Chunk]:
    return [chunk for chunk in corpus.chunks if chunk.document_id == document_id(uri(name))]


def passage_of(corpus: Corpus, chunk: Chunk, **fields: Any) -> Passage:
    title = next(d.title for d in corpus.documents if d.document_id == chunk.document_id)
    values = {"role": "distractor", "origin": "random", **fields}
    return Passage(
        chunk_id=chunk.chunk_id,
        document_id=chunk.document_id,
        title=title,
        text=chunk.text,
        **values,
    )


def row_about(
    corpus: Corpus,
    oracles: Sequence[Chunk],
    distractors: Sequence[Chunk | Passage] = (),
    *,
    split: Split = "train",
    question: str = "",
    quotes: Sequence[tuple[Chunk, str]] | None = None,
    oracle_present: bool = True,
    answer_source: Any = "teacher",
) -> RaftRow:
    """A row that quotes the first words of its oracles, or what `quotes` says.

    Without oracles, an unanswerable one about the first distractor.
    """
    about = list(oracles) or [chunk for chunk in distractors if isinstance(chunk, Chunk)][:1]
    question = question or f"What of {about[0].text[:20]}?"
    wanted = quotes if quotes is not None else [(c, " ".join(c.text.split()[:4])) for c in oracles]
    is_present = bool(oracles) and oracle_present
    steps = tuple(
        ReasoningStep(
            text="As it says:",
            quote=quote_of(chunk, chunk.text.index(text), chunk.text.index(text) + len(text)),
        )
        for chunk, text in wanted
    )
    context = [p if isinstance(p, Passage) else passage_of(corpus, p) for p in distractors]
    if is_present:
        context[1:1] = [
            passage_of(corpus, c, role="oracle", origin="oracle", rank=1, score=0.5)
            for c in oracles
        ]
    return RaftRow(
        row_id=make_row_id(question, [chunk.chunk_id for chunk in about]),
        row_key="key",
        split=split,
        task="answer",
        kind="factual" if oracles else "unanswerable",
        style="plain",
        question=question,
        context=tuple(context),
        oracle_chunk_ids=tuple(chunk.chunk_id for chunk in oracles),
        oracle_document_ids=tuple(chunk.document_id for chunk in oracles),
        source_document_id=about[0].document_id,
        oracle_present=is_present,
        target="answer" if is_present else "refuse",
        reasoning=steps if is_present else (),
        final_answer="the answer" if is_present else REFUSAL_ANSWER,
        provenance=Provenance(
            question_source="teacher",
            answer_source=answer_source,
            teacher_model="scripted:1",
            prompt_version="1",
            seed=1,
        ),
    )


def redrawn_row(corpus: Corpus, remapped: Remapped) -> RaftRow:
    """The row as it is after its evidence moved, with nothing beside its passages."""
    is_answerable = bool(remapped.row.oracle_chunk_ids)
    role: dict[str, Any] = {"role": "oracle", "origin": "oracle"} if is_answerable else {}
    oracles = remapped.chunks if is_answerable else ()
    fields = {
        "context": [passage_of(corpus, chunk, **role) for chunk in remapped.chunks],
        "reasoning": remapped.reasoning,
        "oracle_chunk_ids": [chunk.chunk_id for chunk in oracles],
        "oracle_document_ids": [chunk.document_id for chunk in oracles],
    }
    return RaftRow.model_validate({**remapped.row.model_dump(), **fields})


class Books:
    """The functions above, for tests."""

    uri = staticmethod(uri)
    corpus = staticmethod(corpus_of)
    chunks = staticmethod(chunks_of)
    passage = staticmethod(passage_of)
    row = staticmethod(row_about)
    redrawn = staticmethod(redrawn_row)


@pytest.fixture
def books() -> type[Books]:
    return Books


def write_dataset(
    directory: Path, corpus: Corpus, rows: Sequence[RaftRow], config: SynthesizeConfig
) -> None:
    """Documents with rows are in the rows' splits; others wherever there is room."""
    known: dict[str, Split] = {row.source_document_id: row.split for row in rows}
    alone = [(document.document_id,) for document in corpus.documents]
    split_groups(alone, config.split, config.seed, known).write(directory)
    write_splits(directory, rows)
    with LineageWriter(directory, corpus.documents) as lineage:
        for row in rows:
            lineage.write(row)


@pytest.fixture
def make_previous(tmp_path: Path) -> Callable[..., PreviousDataset]:
    """A dataset of a corpus and rows, as if it was fetched from a store."""

    def make(corpus: Corpus, rows: Sequence[RaftRow]) -> PreviousDataset:
        folders = [tmp_path / "dataset", tmp_path / "corpus"]
        for folder in folders:
            folder.mkdir()
        config = SynthesizeConfig(seed=1)
        write_dataset(folders[0], corpus, rows, config)
        write_corpus(folders[1], corpus)
        now = datetime(2026, 1, 1, tzinfo=UTC)
        manifest = Manifest(
            ref=ArtifactRef(kind="dataset", name="demo", fingerprint="0" * 32),
            stage="synthesize",
            stage_version=1,
            config=config.model_dump(mode="json"),
            inputs={},
            details={RECIPE_DETAIL: RECIPE},
            attempt="1",
            files=(),
            code_version="",
            libraries={},
            started_at=now,
            finished_at=now,
        )
        return PreviousDataset(manifest, *folders)

    return make


@dataclass
class Library:
    """A store with corpora, datasets and models."""

    ws: Workspace

    def publish_corpus(self, corpus: Corpus) -> ArtifactRef:
        return publish(
            self.ws,
            "corpus",
            lambda draft: write_corpus(draft.directory, corpus),
            config=IngestConfig(),
            inputs={"content": repr(corpus)},
        ).ref

    def publish_dataset(
        self,
        corpus: Corpus,
        rows: Sequence[RaftRow],
        inputs: Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        config = SynthesizeConfig(seed=1)

        def build(draft: ArtifactDraft) -> None:
            write_dataset(draft.directory, corpus, rows, config)
            draft.details[RECIPE_DETAIL] = RECIPE

        all_inputs = {"corpus": self.publish_corpus(corpus), **(inputs or {})}
        return publish(
            self.ws, "dataset", build, stage="dataset", config=config, inputs=all_inputs
        ).ref

    def publish_bare(self, kind: Any, inputs: Mapping[str, ArtifactRef]) -> ArtifactRef:
        """An artifact with a file that says nothing."""

        def build(draft: ArtifactDraft) -> None:
            (draft.directory / "file.txt").write_text("x")

        return publish(self.ws, kind, build, inputs=inputs).ref

    def dataset_ref(self, corpus: Corpus, inputs: Mapping[str, Any]) -> ArtifactRef:
        """What `publish_dataset` would call its dataset."""
        return stage_ref(
            kind="dataset",
            name="demo",
            stage="dataset",
            stage_version=1,
            config=SynthesizeConfig(seed=1),
            inputs={"corpus": self.publish_corpus(corpus), **inputs},
        )


@pytest.fixture
def library(workspace: Workspace) -> Library:
    return Library(workspace)
