"""The embedding cache on real S3: nothing is embedded twice, and nothing damaged is believed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.retrieval import embedder as embedder_module
from pipeline_lib.retrieval import embedding_cache as cache_module
from pipeline_lib.retrieval.embedder import Embedder
from pipeline_lib.retrieval.embedding_cache import EmbeddingCache, space_of, text_sha256
from pipeline_lib.retrieval.embedding_segments import (
    BadSegmentError,
    SegmentName,
    decode_segment,
    encode_segment,
)
from pipeline_lib.stage import Workspace

TEXTS = [f"passage {number}" for number in range(10)]
OpenCache = Callable[..., EmbeddingCache]


@pytest.fixture
def objects(workspace: Workspace) -> ObjectStore:
    return workspace.artifacts.objects


@pytest.fixture
def open_cache(objects: ObjectStore, tmp_path: Path, encoder) -> OpenCache:
    """A cache as one machine sees it."""

    def open_on(machine: str = "one", **changes) -> EmbeddingCache:
        return EmbeddingCache.open(objects, tmp_path / machine, changes.get("encoder", encoder))

    return open_on


def keys(objects: ObjectStore, suffix: str) -> list[str]:
    return [info.key for info in objects.scan("_embeddings/") if info.key.endswith(suffix)]


def hashes(texts: list[str]) -> list[bytes]:
    return [text_sha256(text) for text in texts]


def fill(cache: EmbeddingCache, encoder, texts: list[str]) -> None:
    cache.put(hashes(texts), encoder.encode_queries(texts))


def test_what_one_machine_embedded_another_need_not(open_cache: OpenCache, make_encoder):
    first, second = make_encoder(), make_encoder()
    vectors = Embedder(first, open_cache("one")).vectors(TEXTS)
    again = Embedder(second, open_cache("two")).vectors(TEXTS[::-1])
    assert np.array_equal(again, vectors[::-1])
    assert (first.num_encoded, second.num_encoded) == (10, 0)


def test_another_model_prompt_or_number_format_is_another_space(make_encoder):
    spaces = set()
    for identity, recipe in [("a", "x"), ("b", "x"), ("a", "y")]:
        encoder = make_encoder(identity)
        encoder.document_recipe = recipe
        spaces.add(space_of(encoder))
    assert len(spaces) == 3
    assert space_of(make_encoder("a")) == space_of(make_encoder("a"))


def test_a_space_says_what_it_is(open_cache: OpenCache, objects: ObjectStore, encoder):
    open_cache()
    [note] = keys(objects, "space.json")
    assert objects.get_bytes(note) == b'{"dimension":32,"model":"hashing-1","recipe":"words"}'


def test_texts_are_embedded_in_windows_each_kept_before_the_next(
    open_cache: OpenCache, encoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedder_module, "EMBED_WINDOW", 3)
    encoder.fail_after = 6
    ready: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        Embedder(encoder, open_cache()).prepare(iter(TEXTS), ready.append)
    assert (sum(ready), encoder.num_encoded) == (6, 6)
    encoder.fail_after = None
    again = Embedder(encoder, open_cache("another machine"))
    again.prepare(iter(TEXTS), ready.append)
    assert (again.num_embedded, encoder.num_encoded) == (4, 10)


def test_a_repeated_text_is_embedded_once_and_counted_each_time(open_cache: OpenCache, encoder):
    ready: list[int] = []
    embedder = Embedder(encoder, open_cache())
    embedder.prepare(["a", "b", "a", "a"], ready.append)
    assert (sum(ready), embedder.num_embedded) == (4, 2)


def test_two_writers_of_the_same_text_at_once_do_no_harm(open_cache: OpenCache, encoder):
    one, two = open_cache("one"), open_cache("two")
    fill(one, encoder, TEXTS[:6])
    fill(two, encoder, TEXTS[4:])
    third = open_cache("three")
    assert (third.num_segments, third.num_vectors) == (2, 12)
    assert sorted(third.get(hashes(TEXTS))) == sorted(hashes(TEXTS))


def test_a_segment_is_seen_once_its_keys_are_there(
    open_cache: OpenCache, objects: ObjectStore, encoder
):
    fill(open_cache(), encoder, TEXTS)
    objects.delete(keys(objects, ".keys"))
    fresh = open_cache("two")
    assert fresh.num_segments == 0
    assert fresh.num_ignored_segments == 0  # unfinished, not damaged


@pytest.mark.parametrize("suffix", [".keys", ".parquet"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_segment_is_ignored_counted_and_made_again(
    suffix: str,
    damage: str,
    open_cache: OpenCache,
    objects: ObjectStore,
    encoder,
    caplog: pytest.LogCaptureFixture,
):
    fill(open_cache(), encoder, TEXTS)
    [key] = keys(objects, suffix)
    data = bytearray(objects.get_bytes(key))
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    else:
        del data[-5:]
    objects.put_bytes(key, bytes(data))
    cache = open_cache("two")
    embedder = Embedder(encoder, cache)
    vectors = embedder.vectors(TEXTS)
    assert np.array_equal(vectors, encoder.encode_queries(TEXTS))
    assert (embedder.num_embedded, cache.num_ignored_segments) == (10, 1)
    assert f"Ignoring {key.rpartition('/')[2]}" in caplog.text
    # The same texts in the same window give the same segment, which mends the damaged one.
    assert len(open_cache("three").get(hashes(TEXTS))) == 10


def test_foreign_objects_are_ignored_counted_and_named_once(
    open_cache: OpenCache, objects: ObjectStore, encoder, caplog: pytest.LogCaptureFixture
):
    cache = open_cache()
    fill(cache, encoder, TEXTS)
    folder = keys(objects, ".keys")[0].rpartition("/")[0]
    objects.put_bytes(f"{folder}/notes.txt", b"hello")
    with caplog.at_level(logging.WARNING):
        cache.refresh()
        cache.refresh()
    assert cache.num_ignored_segments == 1
    assert caplog.text.count("Ignoring notes.txt") == 1
    assert len(cache.get(hashes(TEXTS))) == 10


def test_a_segment_of_another_space_or_dimension_is_refused(encoder):
    vectors = encoder.encode_queries(TEXTS)
    name, data, _ = encode_segment(hashes(TEXTS), vectors, "here")
    read, matrix = decode_segment(data, name, "here", 32)
    assert [bytes(row) for row in read] == hashes(TEXTS)
    assert np.array_equal(matrix, vectors)
    with pytest.raises(BadSegmentError, match="belongs to another model"):
        decode_segment(data, name, "there", 32)
    with pytest.raises(BadSegmentError, match="not 31 floats"):
        decode_segment(data, name, "here", 31)


def test_only_names_that_vouch_for_their_bytes_are_segments():
    name = SegmentName("a" * 32, "b" * 16)
    assert SegmentName.parse(name.keys_file) == name
    for other in (name.data_file, "x.keys", f"../{name.keys_file}", name.keys_file.upper()):
        assert SegmentName.parse(other) is None


def test_the_local_copy_is_used_and_may_be_deleted_or_cut_off(
    open_cache: OpenCache, objects: ObjectStore, encoder, tmp_path: Path
):
    fill(open_cache(), encoder, TEXTS)
    [array] = (tmp_path / "one").glob("*/*.npy")
    array.write_bytes(array.read_bytes()[:-9])
    assert len(open_cache().get(hashes(TEXTS))) == 10
    shutil.rmtree(tmp_path / "one")
    assert len(open_cache().get(hashes(TEXTS))) == 10
    objects.delete(keys(objects, ".parquet"))
    assert len(open_cache().get(hashes(TEXTS))) == 10  # from this machine's copy


def test_many_small_segments_become_few(
    open_cache: OpenCache, objects: ObjectStore, encoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache_module, "SMALL_SEGMENTS", 4)
    cache, bystander = open_cache(), open_cache("two")
    for text in TEXTS[:4]:
        fill(cache, encoder, [text])
    assert cache.compact() == 0
    fill(cache, encoder, TEXTS[4:5])
    bystander.refresh()
    assert cache.compact() == 5
    assert (cache.num_segments, cache.num_vectors) == (1, 5)
    assert len(keys(objects, ".parquet")) == len(keys(objects, ".keys")) == 1
    for reader in (cache, bystander, open_cache("three")):
        found = reader.get(hashes(TEXTS[:5]))
        assert all(
            np.array_equal(found[text_sha256(text)], encoder.encode_queries([text])[0])
            for text in TEXTS[:5]
        )


def test_large_segments_are_left_alone_by_compaction(
    open_cache: OpenCache, encoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache_module, "SMALL_SEGMENTS", 1)
    monkeypatch.setattr(cache_module, "SEGMENT_VECTORS", 8)
    cache = open_cache()
    fill(cache, encoder, TEXTS[:2])  # a quarter of the full size: not small
    for text in TEXTS[2:5]:
        fill(cache, encoder, [text])
    assert cache.compact() == 3
    assert cache.num_segments == 2


def test_a_cache_without_a_store_keeps_vectors_in_its_folder(tmp_path: Path, encoder):
    fill(EmbeddingCache.open(None, tmp_path, encoder), encoder, TEXTS)
    again = EmbeddingCache.open(None, tmp_path, encoder)
    assert again.contains([*hashes(TEXTS[:1]), text_sha256("new")]) == [True, False]
    assert len(again.get(hashes(TEXTS))) == 10


def test_texts_that_share_the_first_bytes_of_their_hash_are_told_apart(tmp_path: Path):
    cache = EmbeddingCache(None, tmp_path, "space", 2)
    one, other = b"12345678" + b"a" * 24, b"12345678" + b"b" * 24
    cache.put([one], np.array([[1.0, 0.0]], dtype=np.float32))
    assert cache.get([other]) == {}
    assert list(cache.get([one])) == [one]
