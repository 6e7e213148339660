"""The index stage on real S3 and Qdrant's local mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IndexConfig, IngestConfig, RetrievalConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.errors import (
    ArtifactCorruptError,
    ConfigError,
    InputError,
    VectorStoreError,
)
from pipeline_lib.retrieval.schema import INDEX_FILE, IndexRecord, payloads_of
from pipeline_lib.retrieval.search import Searcher
from pipeline_lib.retrieval.stage import build_index
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.stage import StageResult, Workspace

TEXTS = [f"passage {word} about python" for word in ["one", "two", "three", "four"]]


@pytest.fixture
def index(workspace: Workspace, make_corpus, make_corpus_artifact, encoder):
    """Publishes a corpus and indexes it."""

    def run(texts: list[str], ws: Workspace = workspace, **options) -> StageResult:
        corpus = make_corpus_artifact(workspace, make_corpus(texts, **options))
        return build_index(ws, "demo", IndexConfig(), corpus, encoder=encoder)

    return run


def test_the_artifact_says_what_the_collection_holds(workspace: Workspace, index, encoder):
    result = index(TEXTS)
    assert not result.reused
    assert result.counts == {
        "num_chunks": 4,
        "num_embedded": 4,
        "num_updated": 0,
        "num_deleted": 0,
        "num_unchanged": 0,
    }
    folder = workspace.artifacts.directory(result.ref)
    record = IndexRecord.load(folder)
    assert json.loads((folder / INDEX_FILE).read_text())["embedding_model"].startswith("bundled:")
    assert (record.num_points, record.dimension, record.alias) == (4, encoder.dimension, "demo")
    with VectorStore(workspace.settings, "test") as store:
        assert store.aliases() == {"demo": record.collection}
        assert store.content_mark(record.collection) == (record.points_sha256, 4)


def test_the_same_corpus_is_not_indexed_twice(index, encoder):
    first, second = index(TEXTS), index(TEXTS)
    assert second.reused
    assert second.ref == first.ref
    assert encoder.num_encoded == 4


def test_a_changed_corpus_embeds_only_what_is_new(index):
    index(TEXTS)
    counts = index([*TEXTS[:3], "a new passage"]).counts
    assert counts == {
        "num_chunks": 4,
        "num_embedded": 1,
        "num_updated": 0,
        "num_deleted": 1,
        "num_unchanged": 3,
    }


def test_going_back_to_an_older_corpus_turns_the_collection_back(workspace, index, encoder):
    first = index(TEXTS, title="Old")
    index(TEXTS, title="New")
    again = index(TEXTS, title="Old")
    assert (again.reused, again.ref) == (False, first.ref)
    assert again.counts["num_updated"] == 4
    searcher = Searcher.open(workspace, again.ref, encoder=encoder)
    [[hit]] = searcher.search(["three"], limit=1, config=RetrievalConfig())
    assert (hit.text, hit.title) == (TEXTS[2], "Old 2")


def test_a_qdrant_without_the_collection_is_filled_again_under_the_same_reference(
    workspace: Workspace, index, encoder, tmp_path: Path
):
    first = index(TEXTS)
    moved = workspace.settings.model_copy(update={"home": tmp_path / "another machine"})
    elsewhere = replace(workspace, settings=moved)
    second = index(TEXTS, ws=elsewhere)
    assert (second.reused, second.ref) == (False, first.ref)
    assert second.counts["num_embedded"] == 4
    assert index(TEXTS).reused  # and where it was first, it still is


def test_a_collection_that_lost_points_is_repaired(workspace: Workspace, index, make_corpus):
    first = index(TEXTS)
    record = IndexRecord.load(workspace.artifacts.directory(first.ref))
    with VectorStore(workspace.settings, "test") as store:
        store.delete(record.collection, list(payloads_of(make_corpus(TEXTS)))[:1])
    second = index(TEXTS)
    assert second.counts["num_embedded"] == 1
    assert index(TEXTS).reused


def test_an_older_index_is_refused_by_search_after_the_corpus_changed(
    workspace: Workspace, index, encoder
):
    first = index(TEXTS)
    index([*TEXTS[:3], "a new passage"])
    searcher = Searcher.open(workspace, first.ref, encoder=encoder)
    with pytest.raises(VectorStoreError, match="follows the latest corpus"):
        searcher.search(["three"], limit=1, config=RetrievalConfig())


def test_another_embedding_model_makes_another_collection(
    workspace: Workspace, index, make_corpus, make_corpus_artifact, make_encoder
):
    old = index(TEXTS)
    corpus = make_corpus_artifact(workspace, make_corpus(TEXTS))
    new = build_index(workspace, "demo", IndexConfig(), corpus, encoder=make_encoder("other"))
    collections = [
        IndexRecord.load(workspace.artifacts.directory(r.ref)).collection for r in (old, new)
    ]
    assert collections[0] != collections[1]
    assert new.counts["num_embedded"] == 4
    with VectorStore(workspace.settings, "test") as store:
        assert store.aliases() == {"demo": collections[1]}


def test_searching_with_another_model_than_the_indexs_is_refused(
    workspace: Workspace, index, make_encoder
):
    with pytest.raises(ConfigError, match="was made with hashing-1"):
        Searcher.open(workspace, index(TEXTS).ref, encoder=make_encoder("other"))


def test_an_embedding_model_the_corpus_was_not_cut_for_is_refused(
    workspace: Workspace, make_corpus, make_corpus_artifact
):
    config = IngestConfig(embedding_model="some/other-model")
    corpus = make_corpus_artifact(workspace, make_corpus(TEXTS), config=config)
    with pytest.raises(ConfigError, match="measured with 'some/other-model'"):
        build_index(workspace, "demo", IndexConfig(), corpus)


def test_an_index_is_made_from_a_corpus_only(workspace: Workspace, index, encoder):
    with pytest.raises(ConfigError, match="made from a corpus, not from index/demo/"):
        build_index(workspace, "demo", IndexConfig(), index(TEXTS).ref, encoder=encoder)


def test_an_empty_corpus_is_refused(workspace: Workspace, make_corpus_artifact, encoder):
    corpus: ArtifactRef = make_corpus_artifact(workspace, Corpus((), ()))
    with pytest.raises(InputError, match="has no chunks"):
        build_index(workspace, "demo", IndexConfig(), corpus, encoder=encoder)


def test_a_chunk_without_its_document_is_a_corrupt_corpus(make_corpus):
    corpus = make_corpus(TEXTS)
    with pytest.raises(ArtifactCorruptError, match="1 chunks of the corpus belong to no document"):
        payloads_of(Corpus(corpus.documents[1:], corpus.chunks))


def test_a_record_of_another_form_is_corrupt(tmp_path: Path):
    (tmp_path / INDEX_FILE).write_text('{"collection": "x"}')
    with pytest.raises(ArtifactCorruptError, match="not an index record"):
        IndexRecord.load(tmp_path)


def test_the_real_model_finds_the_passage_that_means_the_same(
    workspace: Workspace, minilm_path: Path, make_corpus, make_corpus_artifact
):
    texts = [
        "The pass statement is a null operation; when it is executed, nothing happens.",
        "A try statement specifies exception handlers for a group of statements.",
        "The import statement binds names of modules in the local namespace.",
    ]
    corpus = make_corpus_artifact(workspace, make_corpus(texts))
    result = build_index(workspace, "demo", IndexConfig(), corpus)
    searcher = Searcher.open(workspace, result.ref)
    queries = ["How do I catch errors?", "Which keyword does nothing?", "load a library"]
    found = searcher.search(queries, limit=1, config=RetrievalConfig(mode="dense"))
    assert [hits[0].text for hits in found] == [texts[1], texts[0], texts[2]]


def test_importing_the_stage_loads_no_heavy_library():
    script = (
        "import sys, pipeline_lib.retrieval.stage, pipeline_lib.retrieval.search;"
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'qdrant_client',"
        " 'prefect') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    assert done.stdout.strip() == "[]"
