"""Synchronisation: only what changed is embedded, written or deleted, also after a crash."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from qdrant_client import models

from pipeline_lib.errors import ArtifactCorruptError, VectorStoreError
from pipeline_lib.progress import NullProgress
from pipeline_lib.retrieval import embedder as embedder_module
from pipeline_lib.retrieval import versions
from pipeline_lib.retrieval.digests import PointDigests
from pipeline_lib.retrieval.embedder import Embedder
from pipeline_lib.retrieval.embedding_cache import EmbeddingCache
from pipeline_lib.retrieval.layout import CollectionLayout
from pipeline_lib.retrieval.schema import Payloads, collection_name, digests_of, payloads_of
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.retrieval.sync import SyncOptions, SyncReport, _Sync, sync_collection
from pipeline_lib.retrieval.verification import verify_collection
from pipeline_lib.settings import Settings

FIRST, SECOND, THIRD = (f"demo__{digit * 12}" for digit in "123")
TEXTS = [
    f"passage {word} about python"
    for word in ["one", "two", "three", "four", "five", "six", "seven"]
]


def sync(settings: Settings, payloads: Payloads, encoder, **changes) -> SyncReport:
    arguments = {
        "collection": FIRST,
        "alias": "demo",
        "progress": NullProgress(),
        "cache": EmbeddingCache.open(None, settings.embedding_cache, encoder),
    }
    options = {key: changes.pop(key) for key in list(changes) if key not in arguments}
    return sync_collection(
        lambda: VectorStore(settings, "test"),
        payloads,
        encoder=encoder,
        bm25=Bm25Encoder("english"),
        options=SyncOptions(**options),
        **(arguments | changes),
    )


def stored(settings: Settings, collection: str = "demo") -> PointDigests:
    with VectorStore(settings, "test") as store:
        return store.digests(collection)


def test_a_first_sync_embeds_everything_and_a_second_nothing(local_settings, make_corpus, encoder):
    payloads = payloads_of(make_corpus(TEXTS))
    first = sync(local_settings, payloads, encoder)
    second = sync(local_settings, payloads, encoder)
    assert (first.num_points, first.num_embedded, first.num_unchanged) == (7, 7, 0)
    assert (second.num_points, second.num_embedded, second.num_unchanged) == (7, 0, 7)
    assert encoder.num_encoded == 7
    assert first.points_sha256 == second.points_sha256 == stored(local_settings).sha256()


def test_only_new_chunks_are_embedded_and_vanished_ones_deleted(
    local_settings, make_corpus, encoder
):
    sync(local_settings, payloads_of(make_corpus(TEXTS)), encoder)
    changed = [*TEXTS[:4], "a wholly new passage"]  # the fifth replaced, two gone
    report = sync(local_settings, payloads_of(make_corpus(changed)), encoder)
    assert (report.num_embedded, report.num_unchanged, report.num_deleted) == (1, 4, 3)
    assert encoder.num_encoded == 8


def test_a_new_title_changes_payloads_and_embeds_nothing(local_settings, make_corpus, encoder):
    sync(local_settings, payloads_of(make_corpus(TEXTS)), encoder)
    payloads = payloads_of(make_corpus(TEXTS, title="Renamed"))
    report = sync(local_settings, payloads, encoder)
    assert (report.num_embedded, report.num_updated, report.num_unchanged) == (0, 7, 0)
    with VectorStore(local_settings, "test") as store:
        assert store.payloads("demo", list(payloads)) == payloads


def test_progress_counts_the_new_chunks(local_settings, make_corpus, encoder, recorded_progress):
    sync(local_settings, payloads_of(make_corpus(TEXTS[:3])), encoder)
    payloads = payloads_of(make_corpus(TEXTS))
    sync(local_settings, payloads, encoder, progress=recorded_progress)
    assert recorded_progress.phases == [("Embedding", 4), ("Writing", 4)]
    assert recorded_progress.advanced == 8


def test_a_crash_in_the_middle_costs_one_window_and_is_repaired_by_the_next_run(
    local_settings, make_corpus, encoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedder_module, "EMBED_WINDOW", 2)
    payloads = payloads_of(make_corpus(TEXTS))
    encoder.fail_after = 4
    with pytest.raises(KeyboardInterrupt):
        sync(local_settings, payloads, encoder)
    with VectorStore(local_settings, "test") as store:
        assert store.aliases() == {}

    encoder.fail_after = None
    report = sync(local_settings, payloads, encoder)
    assert (report.num_embedded, report.num_added) == (3, 7)
    assert encoder.num_encoded == 7
    assert stored(local_settings).sha256() == report.points_sha256


def test_a_crash_while_points_are_written_is_repaired_and_embeds_nothing_again(
    local_settings, make_corpus, encoder, monkeypatch: pytest.MonkeyPatch
):
    payloads = payloads_of(make_corpus(TEXTS))
    write = VectorStore._write

    def write_once(store: VectorStore, *arguments: Any, **options: Any) -> None:
        write(store, *arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(VectorStore, "_write", write_once)
        with pytest.raises(KeyboardInterrupt):
            sync(local_settings, payloads, encoder, upload_batch=4)
    with VectorStore(local_settings, "test") as store:
        assert store.aliases() == {}
        assert store.content_mark(FIRST) == (None, 4)

    report = sync(local_settings, payloads, encoder)
    assert (report.num_embedded, report.num_added, report.num_unchanged) == (0, 3, 4)
    assert encoder.num_encoded == 7
    assert stored(local_settings).sha256() == report.points_sha256


def test_a_new_collection_takes_the_alias_only_when_it_is_complete(
    local_settings, make_corpus, make_encoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedder_module, "EMBED_WINDOW", 2)
    payloads = payloads_of(make_corpus(TEXTS))
    sync(local_settings, payloads, make_encoder("old"))
    other = make_encoder("new")
    other.fail_after = 4
    with pytest.raises(KeyboardInterrupt):
        sync(local_settings, payloads, other, collection=SECOND)
    with VectorStore(local_settings, "test") as store:
        assert store.aliases() == {"demo": FIRST}
    other.fail_after = None
    sync(local_settings, payloads, other, collection=SECOND)
    with VectorStore(local_settings, "test") as store:
        assert store.aliases() == {"demo": SECOND}
        assert store.exists(FIRST)  # kept: the way back


def lose_after_writing(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Let another run get in between writing and verification."""
    write = _Sync._write

    def write_and_change(self: _Sync, store: VectorStore, wanted: PointDigests) -> Any:
        counts = write(self, store, wanted)
        change(store)
        return counts

    monkeypatch.setattr(_Sync, "_write", write_and_change)


def test_another_run_that_changes_the_collection_meanwhile_is_noticed(
    local_settings, make_corpus, encoder, monkeypatch: pytest.MonkeyPatch
):
    payloads = payloads_of(make_corpus(TEXTS))
    lost = next(iter(payloads))
    lose_after_writing(monkeypatch, lambda store: store.delete(FIRST, [lost]))
    with pytest.raises(VectorStoreError, match="of 7 points 1 are missing") as caught:
        sync(local_settings, payloads, encoder)
    assert lost in caught.value.message
    with VectorStore(local_settings, "test") as store:
        assert store.aliases() == {}


def test_points_with_other_vectors_are_found_in_the_sample_and_written_again(
    local_settings, make_corpus, encoder, caplog: pytest.LogCaptureFixture
):
    payloads = payloads_of(make_corpus(TEXTS))
    sync(local_settings, payloads, encoder)
    spoiled, payload = next(iter(payloads.items()))
    point = models.PointStruct(id=spoiled, vector={"dense": [1.0] * 32}, payload=payload)
    with VectorStore(local_settings, "test") as store:
        store.upsert(FIRST, [point])
    report = sync(local_settings, payloads, encoder)
    assert "1 of 7 sampled points have another dense vector (lowest cosine" in caplog.text
    assert "1 of 7 sampled points have another BM25 vector" in caplog.text
    assert report.verification.is_clean
    assert report.verification.num_sampled == 7
    assert encoder.num_encoded == 7  # the right vectors came from the cache


def test_a_verification_says_what_differs(local_settings, make_corpus, encoder):
    payloads = payloads_of(make_corpus(TEXTS))
    sync(local_settings, payloads, encoder)
    ids = list(payloads)
    foreign = models.PointStruct(id=7, vector={"dense": [1.0] * 32}, payload={})
    with VectorStore(local_settings, "test") as store:
        store.delete(FIRST, ids[:1])
        store.replace_payloads(FIRST, [payloads[ids[1]] | {"digest": "00", "title": "x"}])
        store.replace_payloads(FIRST, [payloads[ids[2]] | {"title": "tampered"}])
        store.upsert(FIRST, [foreign])
        report = verify_collection(
            store,
            FIRST,
            digests_of(payloads),
            payloads,
            Embedder(encoder, EmbeddingCache.open(None, local_settings.embedding_cache, encoder)),
            Bm25Encoder("english"),
            sample=100,
            seed=0,
        )
    assert (report.num_expected, report.num_found, report.num_sampled) == (7, 7, 6)
    assert (report.missing, report.foreign, report.changed) == ((ids[0],), ("7",), (ids[1],))
    assert set(report.wrong_payloads) == set(ids[1:3])
    assert (report.wrong_dense, report.wrong_bm25) == ((), ())
    with pytest.raises(VectorStoreError, match="is not what was meant") as caught:
        report.require_clean()
    assert ids[0] in caught.value.message


def test_a_repeated_chunk_id_is_a_corrupt_corpus(local_settings, make_corpus, encoder):
    [payload, *_] = payloads_of(make_corpus(TEXTS)).values()
    with pytest.raises(ArtifactCorruptError, match="1 chunk ids of the corpus come more than once"):
        sync(local_settings, {"a": payload, "b": payload}, encoder)


def test_a_collection_with_vectors_of_another_length_is_refused(
    local_settings, make_corpus, encoder
):
    with VectorStore(local_settings, "test") as store:
        store.create(FIRST, 5)
    with pytest.raises(VectorStoreError, match=r"dense vectors of length 5, but .* have 32"):
        sync(local_settings, payloads_of(make_corpus(TEXTS)), encoder)
    assert encoder.num_encoded == 0


def test_equal_texts_are_embedded_once(local_settings, make_corpus, encoder):
    report = sync(local_settings, payloads_of(make_corpus([*TEXTS, *TEXTS])), encoder)
    assert (report.num_points, report.num_added, report.num_embedded) == (14, 14, 7)


def test_another_collection_takes_vectors_from_the_cache(local_settings, make_corpus, encoder):
    payloads = payloads_of(make_corpus(TEXTS))
    sync(local_settings, payloads, encoder)
    report = sync(local_settings, payloads, encoder, collection=SECOND, alias="other")
    assert (report.num_added, report.num_embedded) == (7, 0)
    assert encoder.num_encoded == 7


def test_one_previous_collection_is_kept_and_older_ones_are_deleted(
    local_settings, make_corpus, encoder
):
    payloads = payloads_of(make_corpus(TEXTS))
    for collection in (FIRST, SECOND):
        assert sync(local_settings, payloads, encoder, collection=collection).num_points == 7
    report = sync(local_settings, payloads, encoder, collection=THIRD)
    assert report.num_deleted_collections == 1
    with VectorStore(local_settings, "test") as store:
        assert store.collections() == [SECOND, THIRD]
        assert store.aliases() == {"demo": THIRD}


def test_more_or_no_previous_collections_are_kept_as_configured(
    local_settings, make_corpus, encoder
):
    payloads = payloads_of(make_corpus(TEXTS))
    for collection in (FIRST, SECOND, THIRD):
        sync(local_settings, payloads, encoder, collection=collection, keep_previous=2)
    with VectorStore(local_settings, "test") as store:
        assert store.collections() == [FIRST, SECOND, THIRD]
    report = sync(local_settings, payloads, encoder, collection=THIRD, keep_previous=0)
    assert report.num_deleted_collections == 2


def test_what_another_run_is_filling_and_what_others_own_is_not_deleted(
    local_settings, make_corpus, encoder, monkeypatch: pytest.MonkeyPatch
):
    payloads = payloads_of(make_corpus(TEXTS))
    with VectorStore(local_settings, "test") as store:
        store.create(SECOND, 32)  # never completed: its run may still be going on
        store.create("demo-2__222222222222", 32)
        store.create("demo__notes", 32)
    assert sync(local_settings, payloads, encoder, keep_previous=0).num_deleted_collections == 0
    monkeypatch.setattr(versions, "ABANDONED_AFTER", timedelta(0))
    assert sync(local_settings, payloads, encoder, keep_previous=0).num_deleted_collections == 1
    with VectorStore(local_settings, "test") as store:
        assert store.collections() == ["demo-2__222222222222", FIRST, "demo__notes"]


def test_local_mode_refuses_more_points_than_it_is_meant_for(local_settings, make_corpus, encoder):
    payloads = payloads_of(make_corpus(TEXTS))
    with pytest.raises(VectorStoreError, match=r"7 chunks.*at most 6") as caught:
        sync(local_settings, payloads, encoder, local_point_limit=6)
    assert "RAFTLINE_QDRANT_URL" in str(caught.value)
    assert encoder.num_encoded == 0
    assert sync(local_settings, payloads, encoder, local_point_limit=7).num_points == 7


def test_a_chunk_of_stop_words_only_is_stored(local_settings, make_corpus, encoder):
    assert sync(local_settings, payloads_of(make_corpus(["of the"])), encoder).num_points == 1


def test_collection_names_differ_by_encoders_chunker_and_layout_and_not_by_anything_else():
    same = {"embedding_identity": "a", "bm25_language": "english", "chunker": "c"}
    name = collection_name("demo", **same)
    assert name == collection_name("demo", **same, layout=CollectionLayout())
    others = {
        collection_name("demo", **same | {"embedding_identity": "b"}),
        collection_name("demo", **same | {"bm25_language": "german"}),
        collection_name("demo", **same | {"chunker": "d"}),
        collection_name("demo", **same, layout=CollectionLayout(quantization="int8")),
        collection_name("demo", **same, layout=CollectionLayout(on_disk=True)),
        collection_name("demo2", **same),
    }
    assert len(others | {name}) == 7
    prefix, _, suffix = name.partition("__")
    assert (prefix, len(suffix)) == ("demo", 12)
