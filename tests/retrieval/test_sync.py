"""Synchronisation: only what changed is embedded, written or deleted, also after a crash."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline_lib.errors import VectorStoreError
from pipeline_lib.progress import NullProgress
from pipeline_lib.retrieval import sync as sync_module
from pipeline_lib.retrieval.schema import collection_name, payloads_of, points_digest
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.retrieval.sync import SyncReport, sync_collection
from pipeline_lib.settings import Settings

TEXTS = [
    f"passage {word} about python"
    for word in ["one", "two", "three", "four", "five", "six", "seven"]
]


def sync(settings: Settings, payloads: dict[str, dict[str, Any]], encoder, **changes) -> SyncReport:
    options = {"collection": "demo__1", "alias": "demo", "progress": NullProgress()} | changes
    return sync_collection(
        lambda: VectorStore(settings, "test"),
        payloads,
        encoder=encoder,
        bm25=Bm25Encoder("english"),
        **options,
    )


def stored(settings: Settings, collection: str = "demo") -> dict[str, str]:
    with VectorStore(settings, "test") as store:
        return store.digests(collection)


def test_a_first_sync_embeds_everything_and_a_second_nothing(local_settings, make_corpus, encoder):
    payloads = payloads_of(make_corpus(TEXTS))
    first = sync(local_settings, payloads, encoder)
    second = sync(local_settings, payloads, encoder)
    assert (first.num_points, first.num_embedded, first.num_unchanged) == (7, 7, 0)
    assert (second.num_points, second.num_embedded, second.num_unchanged) == (7, 0, 7)
    assert encoder.num_encoded == 7
    assert first.points_sha256 == second.points_sha256 == points_digest(stored(local_settings))


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
    assert recorded_progress.phases == [("Embedding", 4)]
    assert recorded_progress.advanced == 4


def test_a_crash_in_the_middle_costs_one_window_and_is_repaired_by_the_next_run(
    local_settings, make_corpus, encoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sync_module, "EMBED_WINDOW", 2)
    payloads = payloads_of(make_corpus(TEXTS))
    encoder.fail_after = 4
    with pytest.raises(KeyboardInterrupt):
        sync(local_settings, payloads, encoder)
    assert len(stored(local_settings, "demo__1")) == 4
    with VectorStore(local_settings, "test") as store:
        assert store.aliases() == {}
        assert store.content_mark("demo__1") == (None, 4)

    encoder.fail_after = None
    report = sync(local_settings, payloads, encoder)
    assert (report.num_embedded, report.num_unchanged) == (3, 4)
    assert encoder.num_encoded == 7
    assert points_digest(stored(local_settings)) == report.points_sha256


def test_a_new_collection_takes_the_alias_only_when_it_is_complete(
    local_settings, make_corpus, make_encoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sync_module, "EMBED_WINDOW", 2)
    payloads = payloads_of(make_corpus(TEXTS))
    sync(local_settings, payloads, make_encoder("old"))
    other = make_encoder("new")
    other.fail_after = 4
    with pytest.raises(KeyboardInterrupt):
        sync(local_settings, payloads, other, collection="demo__2")
    with VectorStore(local_settings, "test") as store:
        assert store.aliases() == {"demo": "demo__1"}
    other.fail_after = None
    sync(local_settings, payloads, other, collection="demo__2")
    with VectorStore(local_settings, "test") as store:
        assert store.aliases() == {"demo": "demo__2"}
        assert store.exists("demo__1")  # kept: the way back


def test_another_run_that_changes_the_collection_meanwhile_is_noticed(
    local_settings, make_corpus, encoder, monkeypatch: pytest.MonkeyPatch
):
    payloads = payloads_of(make_corpus(TEXTS))
    replace = sync_module._drop_and_update

    def replace_and_lose_one(store: VectorStore, collection: str, *rest: Any) -> tuple[int, int]:
        counts = replace(store, collection, *rest)
        store.delete(collection, list(payloads)[:1])
        return counts

    monkeypatch.setattr(sync_module, "_drop_and_update", replace_and_lose_one)
    with pytest.raises(VectorStoreError, match="of 7 points 1 are missing, and 0 are not ours"):
        sync(local_settings, payloads, encoder)
    with VectorStore(local_settings, "test") as store:
        assert store.aliases() == {}


def test_local_mode_refuses_more_points_than_it_is_meant_for(local_settings, make_corpus, encoder):
    payloads = payloads_of(make_corpus(TEXTS))
    with pytest.raises(VectorStoreError, match=r"7 chunks.*at most 6") as caught:
        sync(local_settings, payloads, encoder, local_point_limit=6)
    assert "RAFTLINE_QDRANT_URL" in str(caught.value)
    assert encoder.num_encoded == 0
    assert sync(local_settings, payloads, encoder, local_point_limit=7).num_points == 7


def test_a_chunk_of_stop_words_only_is_stored(local_settings, make_corpus, encoder):
    assert sync(local_settings, payloads_of(make_corpus(["of the"])), encoder).num_points == 1


def test_collection_names_differ_by_encoder_and_not_by_anything_else():
    name = collection_name("demo", embedding_identity="a", bm25_language="english")
    assert name == collection_name("demo", embedding_identity="a", bm25_language="english")
    others = {
        collection_name("demo", embedding_identity="b", bm25_language="english"),
        collection_name("demo", embedding_identity="a", bm25_language="german"),
        collection_name("demo2", embedding_identity="a", bm25_language="english"),
    }
    assert len(others | {name}) == 4
    prefix, _, suffix = name.partition("__")
    assert (prefix, len(suffix)) == ("demo", 12)
