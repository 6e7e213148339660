"""Search in a real local collection; scores and fusions recomputed here by their definitions."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import numpy as np
import pytest
from pydantic import TypeAdapter

from pipeline_lib.config import RetrievalConfig, SearchFilter
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.errors import ArtifactNotFoundError, VectorStoreError
from pipeline_lib.progress import NullProgress
from pipeline_lib.retrieval.search import Hit, Searcher, latest_index
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace
from tests.retrieval.made_collection import (
    DENSE,
    HYBRID_DBSF,
    HYBRID_RRF,
    QUERY,
    SPARSE,
    TEXTS,
    open_searcher,
    scores,
    search_one,
)


def test_dense_scores_are_cosines(searcher: Searcher, encoder):
    hits = search_one(searcher, QUERY, DENSE)
    cosines = encoder.encode_queries(TEXTS) @ encoder.encode_queries([QUERY])[0]
    assert scores(hits) == pytest.approx(dict(zip(TEXTS, cosines.tolist(), strict=True)), abs=1e-5)


def test_sparse_scores_are_bm25_with_inverse_document_frequency(searcher: Searcher):
    # Stemmed, "generator", "yield" and "item" are in 2, 2 and 3 of the 8 passages, once each.
    def idf(frequency: int) -> float:
        return math.log(1 + (8 - frequency + 0.5) / (frequency + 0.5))

    def weight(length: int) -> float:
        return 2.2 / (1 + 1.2 * (0.25 + 0.75 * length / 256))

    assert scores(search_one(searcher, QUERY, SPARSE)) == pytest.approx(
        {
            TEXTS[0]: idf(3) * weight(4),  # list, mutable, sequence, items
            TEXTS[1]: idf(3) * weight(4),  # tuple, immutable, sequence, items
            TEXTS[2]: 2 * idf(2) * weight(4),  # generator, yields, values, lazily
            TEXTS[3]: 2 * idf(2) * weight(5),  # yield, expression, suspends, ..
            TEXTS[5]: idf(3) * weight(5),  # set, holds, distinct, hashable, items
        },
        rel=1e-4,
    )


def test_rrf_is_that_of_the_paper_with_ranks_from_one(searcher: Searcher):
    expected: dict[str, float] = {}
    for branch in (DENSE, SPARSE):
        for rank, hit in enumerate(search_one(searcher, QUERY, branch), start=1):
            expected[hit.text] = expected.get(hit.text, 0) + 1 / (60 + rank)
    hits = search_one(searcher, QUERY, HYBRID_RRF)
    assert scores(hits) == pytest.approx(expected, rel=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_dbsf_normalises_each_branch_by_three_standard_deviations(searcher: Searcher):
    expected: dict[str, float] = {}
    for branch in (DENSE, SPARSE):
        found = scores(search_one(searcher, QUERY, branch))
        mean, deviation = statistics.mean(found.values()), statistics.stdev(found.values())
        for text, score in found.items():
            share = (score - (mean - 3 * deviation)) / (6 * deviation)
            expected[text] = expected.get(text, 0) + share
    assert scores(search_one(searcher, QUERY, HYBRID_DBSF)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("config", [DENSE, SPARSE, HYBRID_RRF, HYBRID_DBSF])
def test_hits_are_distinct_ranked_from_one_and_carry_their_passage(
    config: RetrievalConfig, searcher: Searcher, corpus: Corpus
):
    hits = search_one(searcher, QUERY, config, limit=3)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert len({hit.chunk_id for hit in hits}) == 3
    assert all(a.score >= b.score for a, b in pairwise(hits))
    chunks = {chunk.chunk_id: chunk for chunk in corpus.chunks}
    for hit in hits:
        chunk = chunks[hit.chunk_id]
        number = chunk.document_id.removeprefix("doc-")
        assert (hit.document_id, hit.text, hit.start, hit.end) == (
            chunk.document_id,
            chunk.text,
            chunk.start,
            chunk.end,
        )
        assert (hit.title, hit.source_uri) == (f"Title {number}", f"file:///{number}.txt")


def test_each_query_of_a_batch_gets_its_own_hits_in_order(searcher: Searcher):
    queries = ["mutable list", "of the", "context manager", "raise exceptions"]
    together = searcher.search(queries, limit=2, config=HYBRID_DBSF)
    assert together == [search_one(searcher, query, HYBRID_DBSF, limit=2) for query in queries]
    assert [hits[0].text for hits in together[2:]] == [TEXTS[7], TEXTS[6]]


@pytest.mark.parametrize("config", [DENSE, SPARSE, HYBRID_RRF, HYBRID_DBSF])
def test_equal_scores_are_ordered_and_cut_by_chunk_id(
    config: RetrievalConfig, local_settings: Settings, make_corpus, encoder
):
    corpus = make_corpus(["the same words everywhere"] * 12)
    searcher = open_searcher(local_settings, corpus, encoder)
    found = [hit.chunk_id for hit in search_one(searcher, "same words", config, limit=50)]
    assert found == sorted(chunk.chunk_id for chunk in corpus.chunks)
    assert [h.chunk_id for h in search_one(searcher, "same words", config, limit=5)] == found[:5]


def test_a_limit_above_the_prefetch_limit_is_honoured(searcher: Searcher):
    config = RetrievalConfig(prefetch_limit=1)
    assert len(search_one(searcher, QUERY, config, limit=8)) == 8


def test_a_query_of_stop_words_finds_by_its_dense_vector_or_nothing(searcher: Searcher):
    assert search_one(searcher, "of the", SPARSE) == []
    assert len(search_one(searcher, "of the", HYBRID_DBSF, limit=3)) == 3
    assert len(search_one(searcher, "of the", HYBRID_RRF, limit=3)) == 3


def test_sparse_search_needs_no_embedding_model(
    searcher: Searcher, encoder, monkeypatch: pytest.MonkeyPatch
):
    def fail(texts: list[str]) -> np.ndarray:
        raise AssertionError(texts)

    monkeypatch.setattr(encoder, "encode_queries", fail)
    assert search_one(searcher, "mutable list", SPARSE)[0].text == TEXTS[0]


def test_no_queries_and_no_room_for_hits(searcher: Searcher):
    assert searcher.search([], limit=1, config=HYBRID_DBSF) == []
    with pytest.raises(ValueError, match="limit must be at least 1"):
        searcher.search([QUERY], limit=0, config=HYBRID_DBSF)


def test_the_store_is_free_between_searches(searcher: Searcher, local_settings: Settings):
    search_one(searcher, QUERY, DENSE)
    from filelock import FileLock

    with FileLock(local_settings.home / "qdrant.lock", timeout=0):
        pass


def test_a_collection_that_is_gone_is_an_error_with_a_hint(searcher: Searcher, tmp_path):
    searcher._ws = Workspace(
        Settings(home=tmp_path / "elsewhere", qdrant_url=None),
        searcher._ws.artifacts,
        NullProgress(),
    )
    with pytest.raises(VectorStoreError, match="demo__1, which is not in Qdrant") as caught:
        search_one(searcher, QUERY, DENSE)
    assert "Run the index stage of 'demo' again" in str(caught.value)


def test_a_collection_that_follows_another_corpus_by_now_is_refused(
    searcher: Searcher, local_settings: Settings, make_corpus, encoder
):
    open_searcher(local_settings, make_corpus([*TEXTS[:-1], "Something else."]), encoder)
    with pytest.raises(VectorStoreError, match="follows the latest corpus"):  # also of 8 points
        search_one(searcher, QUERY, DENSE)


def test_a_collection_that_lost_points_is_refused(searcher: Searcher, local_settings, corpus):
    with VectorStore(local_settings, "test") as store:
        store.delete("demo__1", [corpus.chunks[0].chunk_id])
    with pytest.raises(VectorStoreError, match=r"\(7 points\) no longer holds the 8 points"):
        search_one(searcher, QUERY, DENSE)


def test_points_that_vanish_during_a_search_are_an_error(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
):
    original = VectorStore.read
    monkeypatch.setattr(
        VectorStore, "read", lambda self, *args, **kw: list(original(self, *args, **kw))[1:]
    )
    with pytest.raises(VectorStoreError, match="1 points of demo__1 vanished during a search"):
        search_one(searcher, QUERY, DENSE)


def test_search_over_http_equals_local_search(
    searcher: Searcher, corpus: Corpus, server_settings, encoder
):
    remote = open_searcher(server_settings, corpus, encoder)
    filtered = RetrievalConfig(
        filters=(
            SearchFilter(field="title", operator="not", values=("Title 3",)),
            SearchFilter(field="source_uri", operator="prefix", values=("file:///",)),
        )
    )
    diverse = RetrievalConfig(mmr_lambda=0.5)
    for config in (DENSE, SPARSE, HYBRID_DBSF, HYBRID_RRF, filtered, diverse):
        assert search_one(remote, QUERY, config) == search_one(searcher, QUERY, config)
    assert remote.document_sizes({"doc-1"}) == {"doc-1": 1}
    assert remote.fields_without_values(["metadata.x", "title"]) == ["metadata.x"]


# Scores and ranks of the branches


def test_a_hit_says_where_each_branch_put_it(searcher: Searcher):
    dense = {hit.text: hit for hit in search_one(searcher, QUERY, DENSE)}
    sparse = {hit.text: hit for hit in search_one(searcher, QUERY, SPARSE)}
    hits = search_one(searcher, QUERY, HYBRID_DBSF)
    assert len(hits) == len(TEXTS) > len(sparse)
    for hit in hits:
        assert (hit.dense_score, hit.dense_rank) == (dense[hit.text].score, dense[hit.text].rank)
        found = sparse.get(hit.text)
        expected = (found.score, found.rank) if found else (None, None)
        assert (hit.sparse_score, hit.sparse_rank) == expected
        assert hit.fused_score == hit.score
        assert hit.rerank_score is None


def test_what_was_not_asked_has_no_score(searcher: Searcher):
    [hit] = search_one(searcher, QUERY, DENSE, limit=1)
    assert (hit.dense_score, hit.dense_rank) == (hit.score, 1)
    assert hit.sparse_score is hit.sparse_rank is hit.fused_score is None
    [hit] = search_one(searcher, QUERY, SPARSE, limit=1)
    assert (hit.sparse_score, hit.sparse_rank) == (hit.score, 1)
    assert hit.dense_score is hit.dense_rank is hit.fused_score is None


def test_a_branch_that_found_a_passage_below_its_candidates_counts_as_not_found(
    searcher: Searcher,
):
    hits = search_one(searcher, QUERY, RetrievalConfig(prefetch_limit=1), limit=1)
    assert [hit.dense_rank or hit.sparse_rank for hit in hits] == [1]


def test_one_batch_asks_each_branch_once(searcher: Searcher, monkeypatch: pytest.MonkeyPatch):
    asked: list[str | None] = []
    original = VectorStore.query

    def query(self, collection, requests):
        asked.extend(request.using for request in requests)
        return original(self, collection, requests)

    monkeypatch.setattr(VectorStore, "query", query)
    searcher.search([QUERY, "of the", "lists"], limit=2, config=HYBRID_RRF)
    assert asked == ["dense", "bm25", "dense", "dense", "bm25"]


def test_hits_survive_json(searcher: Searcher):
    hits = search_one(searcher, QUERY, HYBRID_DBSF)
    adapter = TypeAdapter(list[Hit])
    assert adapter.validate_json(adapter.dump_json(hits)) == hits


def test_there_is_no_index_before_one_is_made(workspace: Workspace):
    with pytest.raises(ArtifactNotFoundError, match="There is no index 'demo' to search in"):
        latest_index(workspace, "demo")


# Scripts


def test_text_of_every_script_is_found(local_settings: Settings, make_corpus, encoder):
    texts = ["日本の 首都 は 東京 です", "مرحبا بالعالم العربي", "שלום עולם יפה", "plain words"]
    searcher = open_searcher(local_settings, make_corpus(texts), encoder)
    for query, text in (("首都", texts[0]), ("العربي", texts[1]), ("עולם", texts[2])):
        [hit] = search_one(searcher, query, SPARSE)
        assert hit.text == text
        for config in (HYBRID_DBSF, HYBRID_RRF):
            ranks = {hit.text: hit.sparse_rank for hit in search_one(searcher, query, config)}
            assert ranks == {each: 1 if each == text else None for each in texts}
        [(start, end)] = searcher.highlights(query, text)
        assert text[start:end] == query


def test_the_same_search_gives_the_same_hits(
    searcher: Searcher, local_settings: Settings, corpus: Corpus, encoder
):
    config = RetrievalConfig(mmr_lambda=0.6)
    before = search_one(searcher, QUERY, config)
    assert search_one(searcher, QUERY, config) == before
    backwards = Corpus(corpus.documents, corpus.chunks[::-1])
    refilled = open_searcher(local_settings, backwards, encoder)
    assert search_one(refilled, QUERY, config) == before
