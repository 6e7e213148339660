"""The index stage on real S3 and Qdrant's local mode."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import (
    ChunkConfig,
    IndexConfig,
    IngestConfig,
    MetadataIndex,
    RetrievalConfig,
)
from pipeline_lib.corpus.chunking import tokenizer_identity
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.errors import ArtifactCorruptError, ConfigError, InputError, VectorStoreError
from pipeline_lib.retrieval.layout import CollectionLayout, choose_layout, search_params
from pipeline_lib.retrieval.schema import INDEX_FILE, CorpusPayloads, IndexRecord, payloads_of
from pipeline_lib.retrieval.search import Searcher
from pipeline_lib.retrieval.stage import (
    EmbeddingPlan,
    build_index,
    embed_shard,
    plan_embedding,
    verify_index,
)
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.retrieval.versions import rollback_index
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
        "num_added": 4,
        "num_embedded": 4,
        "num_updated": 0,
        "num_deleted": 0,
        "num_unchanged": 0,
        "num_deleted_collections": 0,
        "num_verified": 4,
        "num_ignored_segments": 0,
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
    names = ("num_chunks", "num_added", "num_embedded", "num_deleted", "num_unchanged")
    assert [counts[name] for name in names] == [4, 1, 1, 1, 3]


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
    assert second.counts["num_added"] == 4
    assert second.counts["num_embedded"] == 0  # the vectors are in S3
    assert index(TEXTS).reused  # and where it was first, it still is


def test_a_collection_that_lost_points_is_repaired(workspace: Workspace, index, make_corpus):
    first = index(TEXTS)
    record = IndexRecord.load(workspace.artifacts.directory(first.ref))
    with VectorStore(workspace.settings, "test") as store:
        store.delete(record.collection, list(payloads_of(make_corpus(TEXTS)))[:1])
    second = index(TEXTS)
    assert (second.counts["num_added"], second.counts["num_embedded"]) == (1, 0)
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


def test_a_rollback_goes_back_to_the_collection_and_the_artifact_from_before(
    workspace: Workspace, index, make_corpus, make_corpus_artifact, make_encoder, encoder
):
    old = index(TEXTS)
    corpus = make_corpus_artifact(workspace, make_corpus(TEXTS))
    other = make_encoder("other")
    new = build_index(workspace, "demo", IndexConfig(), corpus, encoder=other)

    back = rollback_index(workspace, "demo")
    assert back.artifact == old.ref == workspace.artifacts.resolve("index/demo@latest")
    with VectorStore(workspace.settings, "test") as store:
        assert store.aliases() == {"demo": back.restored}
    searcher = Searcher.open(workspace, back.artifact, encoder=encoder)
    assert searcher.search(["three"], limit=1, config=RetrievalConfig())[0][0].text == TEXTS[2]
    assert index(TEXTS).reused

    forward = rollback_index(workspace, "demo")
    assert (forward.restored, forward.artifact) == (back.left, new.ref)


def test_there_is_nothing_to_roll_back_to_before_a_switch(workspace: Workspace, index):
    with pytest.raises(VectorStoreError, match="No collection is in use for 'demo'"):
        rollback_index(workspace, "demo")
    index(TEXTS)
    with pytest.raises(VectorStoreError, match="no collection to go back to"):
        rollback_index(workspace, "demo")


def test_another_chunk_size_makes_another_collection(
    workspace: Workspace, index, make_corpus, make_corpus_artifact, encoder
):
    old = index(TEXTS)
    config = IngestConfig(chunking=ChunkConfig(size_tokens=99))
    corpus = make_corpus_artifact(workspace, make_corpus(TEXTS), config=config)
    new = build_index(workspace, "demo", IndexConfig(), corpus, encoder=encoder)
    collections = {
        IndexRecord.load(workspace.artifacts.directory(result.ref)).collection
        for result in (old, new)
    }
    assert len(collections) == 2
    assert new.counts["num_embedded"] == 0


def test_an_index_verifies_against_its_corpus(workspace: Workspace, index, encoder):
    result = index(TEXTS)
    report = verify_index(workspace, result.ref, encoder=encoder)
    assert (report.is_clean, report.num_sampled) == (True, 4)
    with VectorStore(workspace.settings, "test") as store:
        store.delete(report.collection, store.digests(report.collection).ids.sample(1, 0))
    assert verify_index(workspace, result.ref, encoder=encoder).num_missing == 1


def test_shards_embedded_apart_leave_only_the_writing_to_the_stage(
    workspace: Workspace, make_corpus, make_corpus_artifact, make_encoder
):
    corpus = make_corpus_artifact(workspace, make_corpus([*TEXTS, TEXTS[0]]))
    config = IndexConfig(shard_chunks=2)
    planner = make_encoder()
    plan = plan_embedding(workspace, "demo", config, corpus, encoder=planner)
    plan = EmbeddingPlan.model_validate_json(plan.model_dump_json())
    assert plan.shards == ((0, 2), (2, 4), (4, 5))
    done = [embed_shard(workspace, plan, n, encoder=make_encoder()) for n in range(3)]
    assert [(shard.num_chunks, shard.num_embedded) for shard in done] == [(2, 2), (2, 2), (1, 0)]
    again = embed_shard(workspace, plan, 0, encoder=make_encoder())
    assert again.num_embedded == 0

    result = build_index(workspace, "demo", config, corpus, encoder=planner)
    assert result.ref == plan.ref
    assert (result.counts["num_added"], result.counts["num_embedded"]) == (5, 0)
    assert planner.num_encoded == 0
    assert plan_embedding(workspace, "demo", config, corpus, encoder=planner).shards == ()


def test_a_worker_with_another_model_under_the_same_name_is_refused(
    workspace: Workspace, make_corpus, make_corpus_artifact, make_encoder
):
    corpus = make_corpus_artifact(workspace, make_corpus(TEXTS))
    plan = plan_embedding(workspace, "demo", IndexConfig(), corpus, encoder=make_encoder())
    with pytest.raises(ConfigError, match="is other on this machine, but hashing-1"):
        embed_shard(workspace, plan, 0, encoder=make_encoder("other"))


@pytest.mark.parametrize(
    "asked",
    [
        {"quantization": "int8"},
        {"on_disk": "always"},
        {"metadata_indexes": (MetadataIndex(field="year", type="integer"),)},
    ],
)
def test_local_mode_refuses_what_only_a_server_can_do_and_names_the_setting(
    asked: dict[str, Any], workspace: Workspace, make_corpus, make_corpus_artifact, encoder
):
    corpus = make_corpus_artifact(workspace, make_corpus(TEXTS))
    [setting] = asked
    with pytest.raises(ConfigError, match=f"index.{setting} ") as caught:
        build_index(workspace, "demo", IndexConfig(**asked), corpus, encoder=encoder)
    assert "RAFTLINE_QDRANT_URL" in str(caught.value)
    assert encoder.num_encoded == 0


def test_a_server_quantizes_large_collections_and_keeps_them_on_disk():
    chosen = partial(choose_layout, IndexConfig(), dimension=384, is_local=False)
    assert chosen(num_points=300_000) == CollectionLayout()
    assert chosen(num_points=400_000) == CollectionLayout(quantization="int8", on_disk=True)
    exact = IndexConfig(quantization="none", on_disk="never")
    large = choose_layout(exact, num_points=10**7, dimension=384, is_local=False)
    assert large == CollectionLayout()
    local = choose_layout(IndexConfig(), num_points=10**7, dimension=384, is_local=True)
    assert local == CollectionLayout()


def test_quantized_searches_look_at_the_original_vectors():
    assert search_params("none") is None
    params = search_params("int8").quantization
    assert (params.rescore, params.oversampling) == (True, 2.0)


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


@pytest.fixture
def tuned_path(minilm_path: Path, tmp_path: Path) -> Path:
    """Another model with the same tokenizer, as fine-tuning leaves it."""
    folder = tmp_path / "tuned"
    shutil.copytree(minilm_path, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
    config = folder / "config.json"
    values = json.loads(config.read_text())
    config.unlink()
    config.write_text(json.dumps(values | {"note": "tuned"}))
    return folder


def test_a_model_with_the_tokenizer_that_cut_the_corpus_may_embed_it(
    workspace: Workspace, minilm_path, tuned_path, make_corpus, make_corpus_artifact
):
    details = {"tokenizer_identity": tokenizer_identity(minilm_path)}
    corpus = make_corpus_artifact(workspace, make_corpus(TEXTS), details=details)
    config = IndexConfig(embedding_model=str(tuned_path))
    assert plan_embedding(workspace, "demo", config, corpus).shards == ((0, 4),)


def test_another_tokenizer_than_the_corpus_is_refused_even_under_the_same_name(
    workspace: Workspace, minilm_path, make_corpus, make_corpus_artifact
):
    corpus = make_corpus_artifact(
        workspace, make_corpus(TEXTS), details={"tokenizer_identity": "another"}
    )
    with pytest.raises(ConfigError, match="whose tokenizer is another"):
        build_index(workspace, "demo", IndexConfig(), corpus)


def test_a_model_that_reads_less_than_a_chunk_is_refused(
    workspace: Workspace, tuned_path, minilm_path, make_corpus, make_corpus_artifact
):
    limits = tuned_path / "sentence_bert_config.json"
    limits.unlink()
    limits.write_text('{"max_seq_length": 64, "do_lower_case": false}')
    details = {"tokenizer_identity": tokenizer_identity(minilm_path)}
    corpus = make_corpus_artifact(workspace, make_corpus(TEXTS), details=details)
    with pytest.raises(ConfigError, match="reads at most 62 tokens"):
        build_index(workspace, "demo", IndexConfig(embedding_model=str(tuned_path)), corpus)


def test_an_index_is_made_from_a_corpus_only(workspace: Workspace, index, encoder):
    with pytest.raises(ConfigError, match="made from a corpus, not from index/demo/"):
        build_index(workspace, "demo", IndexConfig(), index(TEXTS).ref, encoder=encoder)


def test_an_empty_corpus_is_refused(workspace: Workspace, make_corpus_artifact, encoder):
    corpus: ArtifactRef = make_corpus_artifact(workspace, Corpus((), ()))
    with pytest.raises(InputError, match="has no chunks"):
        build_index(workspace, "demo", IndexConfig(), corpus, encoder=encoder)


def test_a_chunk_without_its_document_is_a_corrupt_corpus(make_corpus):
    corpus = make_corpus(TEXTS)
    with pytest.raises(ArtifactCorruptError, match="belongs to the document doc-0, which"):
        payloads_of(Corpus(corpus.documents[1:], corpus.chunks))


def test_a_payload_carries_what_searches_filter_by_and_show(make_corpus):
    corpus = make_corpus(TEXTS[:1])
    document = replace(
        corpus.documents[0],
        language="en",
        metadata_json='{"year": 2019, "tags": ["a", null], "rating": NaN, "none": null}',
    )
    chunk = replace(corpus.chunks[0], heading_path=("Part", "Section"), places=("page 3",))
    [payload] = payloads_of(Corpus((document,), (chunk,))).values()
    digest = payload.pop("digest")
    assert len(digest) == 16
    assert payload == {
        "chunk_id": chunk.chunk_id,
        "document_id": "doc-0",
        "title": "Title 0",
        "source_uri": "file:///0.txt",
        "text": TEXTS[0],
        "start": 0,
        "end": len(TEXTS[0]),
        "ordinal": 0,
        "heading_path": ["Part", "Section"],
        "places": ["page 3"],
        "language": "en",
        "media_type": "text/plain",
        "metadata": {"year": 2019, "tags": ["a"]},
    }


@pytest.mark.parametrize("metadata", ["[1]", "{", '"text"'])
def test_metadata_that_is_no_object_is_a_corrupt_corpus(metadata: str, make_corpus):
    corpus = make_corpus(TEXTS[:1])
    documents = (replace(corpus.documents[0], metadata_json=metadata),)
    with pytest.raises(ArtifactCorruptError, match="no JSON object"):
        payloads_of(Corpus(documents, corpus.chunks))


def test_payloads_streamed_from_the_artifact_equal_those_of_the_corpus_in_memory(
    workspace: Workspace, make_corpus, make_corpus_artifact
):
    corpus = make_corpus(TEXTS)
    directory = workspace.artifacts.directory(make_corpus_artifact(workspace, corpus))
    assert list(CorpusPayloads(directory).values()) == list(payloads_of(corpus).values())


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
