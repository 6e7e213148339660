"""The stage on a real object store: published once, reused, made again when something changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.config import ChunkConfig, IngestConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.corpus.stage import ingest
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.stage import Workspace


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("The first document says one thing.")
    (folder / "b.md").write_text("# Second\n\nThe second document says another thing.")
    (folder / "c.png").write_bytes(b"\x89PNG")
    return folder


def config(docs: Path, model_folder: Path, **changes: object) -> IngestConfig:
    values: dict[str, object] = {
        "sources": (str(docs),),
        "embedding_model": str(model_folder),
        "chunking": ChunkConfig(size_tokens=32),
    }
    return IngestConfig.model_validate(values | changes)


def test_a_corpus_is_published_with_counts_and_reasons(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    result = ingest(workspace, "tiny", config(docs, model_folder))
    assert (result.ref.kind, result.ref.name, result.reused) == ("corpus", "tiny", False)
    assert result.counts == {
        "num_inputs": 3,
        "num_documents": 2,
        "num_chunks": 2,
        "num_chunk_tokens": 16,
    }
    assert result.dropped == {"unsupported_type": 1}
    corpus = Corpus.load(workspace.artifacts.directory(result.ref))
    assert [document.title for document in corpus.documents] == ["a", "Second"]
    manifest = workspace.artifacts.manifest(result.ref)
    assert manifest.details == {"encodings": {"utf-8": 2}, "largest_chunk_tokens": 9}
    assert manifest.inputs.keys() == {"sources", "embedding_model"}
    assert {file.path for file in manifest.files} == {
        "documents.parquet",
        "chunks.parquet",
        "drops.parquet",
    }


def test_unchanged_sources_are_reused_wherever_they_lie(
    workspace: Workspace, docs: Path, model_folder: Path, tmp_path: Path
) -> None:
    first = ingest(workspace, "tiny", config(docs, model_folder))
    moved = shutil.copytree(docs, tmp_path / "elsewhere" / "docs")
    again = ingest(workspace, "tiny", config(moved, model_folder))
    assert again.reused
    assert again.ref == first.ref
    assert again.counts == first.counts


def test_an_edited_file_makes_a_new_corpus_in_which_the_rest_keeps_its_ids(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    first = ingest(workspace, "tiny", config(docs, model_folder))
    (docs / "a.txt").write_text("The first document says something else.")
    second = ingest(workspace, "tiny", config(docs, model_folder))
    assert not second.reused
    assert second.ref != first.ref
    before, after = (
        Corpus.load(workspace.artifacts.directory(result.ref)) for result in (first, second)
    )
    assert [d.document_id for d in before.documents] == [d.document_id for d in after.documents]
    assert [a.chunk_id == b.chunk_id for a, b in zip(before.chunks, after.chunks, strict=True)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"chunking": ChunkConfig(size_tokens=31)},
        {"chunking": ChunkConfig(size_tokens=32, overlap_tokens=1)},
        {"max_file_bytes": 1000},
        {"max_dropped_fraction": 0.9},
    ],
)
def test_other_configuration_makes_another_corpus(
    workspace: Workspace, docs: Path, model_folder: Path, changes: dict[str, object]
) -> None:
    first = ingest(workspace, "tiny", config(docs, model_folder))
    other = ingest(workspace, "tiny", config(docs, model_folder, **changes))
    assert other.ref != first.ref


def test_another_tokenizer_under_the_same_path_makes_another_corpus(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    first = ingest(workspace, "tiny", config(docs, model_folder))
    file = model_folder / "tokenizer.json"
    file.write_text(file.read_text().replace("[UNK]", "[unk]"))
    assert ingest(workspace, "tiny", config(docs, model_folder)).ref != first.ref


def test_a_failed_ingest_publishes_nothing(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    with pytest.raises(InputError):
        ingest(workspace, "tiny", config(docs, model_folder, max_dropped_fraction=0.1))
    with pytest.raises(ConfigError, match="reads at most 64 tokens"):
        ingest(workspace, "tiny", config(docs, model_folder, chunking=ChunkConfig(size_tokens=65)))
    assert workspace.artifacts.refs(kind="corpus") == []


def test_importing_the_stage_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "prefect", "trafilatura", "tokenizers")
    code = f"import sys, pipeline_lib.corpus.stage; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
