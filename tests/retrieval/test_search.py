"""Search in a real local collection; scores and fusions recomputed here by their definitions."""

from __future__ import annotations

import hashlib
import math
import statistics
import uuid
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from qdrant_client.models import PointStruct

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import ArtifactStore
from pipeline_lib.config import (
    ExpandConfig,
    IndexConfig,
    RerankConfig,
    RetrievalConfig,
    SearchFilter,
)
from pipeline_lib.corpus.schema import Chunk, Corpus, Document
from pipeline_lib.errors import ArtifactNotFoundError, VectorStoreError
from pipeline_lib.progress import NullProgress
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retrieval.search import Hit, Searcher, latest_index
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.stage import build_index
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace

REF = ArtifactRef(kind="index", name="demo", fingerprint="0" * 32)
TEXTS = [
    "A list is a mutable sequence of items.",
    "A tuple is an immutable sequence of items.",
    "A generator yields values lazily.",
    "The yield expression suspends a generator function.",
    "Dictionaries map keys to values.",
    "A set holds distinct hashable items.",
    "Exceptions are raised by the raise statement.",
    "The with statement enters a context manager.",
]
QUERY = "generator yields items"
HYBRID_RRF = RetrievalConfig(fusion="rrf", rrf_k=60)
HYBRID_DBSF = RetrievalConfig(fusion="dbsf")
DENSE = RetrievalConfig(mode="dense")
SPARSE = RetrievalConfig(mode="sparse")


def open_searcher(
    settings: Settings, corpus: Corpus, encoder, extra: Sequence[dict[str, Any]] = (), **options
) -> Searcher:
    """A filled collection behind a searcher; `extra` adds to the payloads, in the corpus' order."""
    payloads = [_payload(corpus, chunk) for chunk in corpus.chunks]
    for payload, fields in zip(payloads, extra, strict=False):
        payload.update(fields)
    texts = [payload["text"] for payload in payloads]
    dense, sparse = encoder.encode_documents(texts), Bm25Encoder("english").encode_documents(texts)
    points = []
    for row, payload in enumerate(payloads):
        vector: dict[str, Any] = {"dense": dense[row].tolist()}
        if sparse[row].indices:
            vector["bm25"] = sparse[row]
        points.append(PointStruct(id=payload["chunk_id"], vector=vector, payload=payload))
    mark = hashlib.sha256(repr(payloads).encode()).hexdigest()
    with VectorStore(settings, "test") as store:
        if store.exists("demo__1"):
            store.drop("demo__1")
        store.create("demo__1", encoder.dimension)
        store.upsert("demo__1", points)
        store.set_content_mark("demo__1", mark)
    record = IndexRecord(
        collection="demo__1",
        alias="demo",
        embedding_model="fake",
        embedding_identity=encoder.identity,
        bm25_language="english",
        dimension=encoder.dimension,
        num_points=len(points),
        points_sha256=mark,
    )
    ws = Workspace(settings, ArtifactStore(settings), NullProgress())
    return Searcher(ws, REF, record, encoder, **options)


def _payload(corpus: Corpus, chunk: Chunk) -> dict[str, Any]:
    document = next(d for d in corpus.documents if d.document_id == chunk.document_id)
    return {
        "chunk_id": chunk.chunk_id,
        "document_id": chunk.document_id,
        "title": document.title,
        "source_uri": document.source_uri,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "ordinal": chunk.ordinal,
        "heading_path": list(chunk.heading_path),
        "places": list(chunk.places),
        "language": document.language,
        "media_type": document.media_type,
        "metadata": {},
        "digest": "0" * 16,
    }


@pytest.fixture
def corpus(make_corpus) -> Corpus:
    return make_corpus(TEXTS)


@pytest.fixture
def searcher(local_settings: Settings, corpus: Corpus, encoder) -> Searcher:
    return open_searcher(local_settings, corpus, encoder)


def search_one(
    searcher: Searcher, query: str, config: RetrievalConfig, limit: int = 50
) -> list[Hit]:
    [hits] = searcher.search([query], limit=limit, config=config)
    return hits


def scores(hits: list[Hit]) -> dict[str, float]:
    return {hit.text: hit.score for hit in hits}


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


# Filters


def test_filters_hold_in_every_branch_before_candidates_are_cut(
    local_settings: Settings, corpus: Corpus, encoder
):
    extra = [{"metadata": {"year": 2000 + n}} for n in range(len(TEXTS))]
    searcher = open_searcher(local_settings, corpus, encoder, extra)
    late = SearchFilter(field="metadata.year", operator="range", minimum=2005)
    for mode in ("dense", "sparse", "hybrid"):
        config = RetrievalConfig(mode=mode, filters=(late,), prefetch_limit=3)
        hits = search_one(searcher, "items keys raise statement", config)
        assert {hit.text for hit in hits} == set(TEXTS[5:8])
        assert [hit.metadata["year"] >= 2005 for hit in hits] == [True] * 3


def test_filters_that_match_nothing_give_nothing(searcher: Searcher):
    nothing = SearchFilter(field="title", values=("Nobody",))
    for mode in ("dense", "sparse", "hybrid"):
        config = RetrievalConfig(
            mode=mode, filters=(nothing,), mmr_lambda=0.5, expand=ExpandConfig(unit="section")
        )
        assert searcher.search([QUERY, "list"], limit=3, config=config) == [[], []]


def test_which_fields_no_chunk_has(searcher: Searcher):
    fields = ["metadata.year", "title", "language"]
    assert searcher.fields_without_values(fields) == ["metadata.year"]
    assert searcher.fields_without_values([]) == []


def test_sizes_of_documents(local_settings: Settings, corpus: Corpus, encoder, monkeypatch):
    extra = [{"document_id": "a"}, {"document_id": "a"}, {"document_id": "b"}]
    searcher = open_searcher(local_settings, corpus, encoder, extra)
    assert searcher.document_sizes({"a", "b", "nowhere"}) == {"a": 2, "b": 1}
    assert searcher.document_sizes([]) == {}
    monkeypatch.setattr("pipeline_lib.retrieval.search._MOST_COUNTED", 3)
    assert searcher.document_sizes({"a", "b"}) == {}  # there may be more


# Maximal marginal relevance


def test_repetitions_fall_behind(local_settings: Settings, make_corpus, encoder):
    texts = ["alpha beta gamma", "alpha beta gamma.", "alpha beta gamma!", "alpha delta", "zeta"]
    searcher = open_searcher(local_settings, make_corpus(texts), encoder)
    query = "alpha beta gamma"
    [plain, diverse] = [
        [h.text for h in search_one(searcher, query, config, limit=2)]
        for config in (DENSE, DENSE.model_copy(update={"mmr_lambda": 0.3}))
    ]
    assert set(plain) <= set(texts[:3])
    assert diverse[0] in texts[:3]
    assert diverse[1] in texts[3:]


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_diverse_hits_are_numbered_anew_and_keep_their_scores(mode: str, searcher: Searcher):
    plain = RetrievalConfig(mode=mode)
    hits = search_one(searcher, QUERY, plain.model_copy(update={"mmr_lambda": 0.2}), limit=4)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert scores(hits).items() <= scores(search_one(searcher, QUERY, plain)).items()
    assert hits[0].text == search_one(searcher, QUERY, plain)[0].text


# Reranking


class LongestFirst:
    """A cross-encoder made by hand: its score is the passage's length."""

    identity = "longest"

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.pairs.extend(pairs)
        return [float(len(passage)) for _, passage in pairs]


def test_the_reranker_decides_the_order(local_settings: Settings, corpus: Corpus, encoder):
    reranker = LongestFirst()
    searcher = open_searcher(local_settings, corpus, encoder, reranker=reranker)
    config = RetrievalConfig(rerank=RerankConfig(model="made by hand", num_candidates=50))
    first, second = searcher.search([QUERY, "list"], limit=3, config=config)
    longest = sorted(TEXTS, key=len, reverse=True)[:3]
    assert [hit.text for hit in first] == [hit.text for hit in second] == longest
    assert [hit.rank for hit in first] == [1, 2, 3]
    for hit in first:
        assert hit.score == hit.rerank_score == len(hit.text)
        assert hit.fused_score not in (None, hit.score)
    assert [query for query, _ in reranker.pairs] == [QUERY] * 8 + ["list"] * 8


def test_only_the_best_candidates_are_reranked_but_never_fewer_than_asked_for(
    local_settings: Settings, corpus: Corpus, encoder
):
    reranker = LongestFirst()
    searcher = open_searcher(local_settings, corpus, encoder, reranker=reranker)
    config = RetrievalConfig(rerank=RerankConfig(model="x", num_candidates=3), prefetch_limit=2)
    best = {hit.text for hit in search_one(searcher, QUERY, RetrievalConfig(), limit=3)}
    assert {hit.text for hit in search_one(searcher, QUERY, config, limit=1)} <= best
    assert len(reranker.pairs) == 3
    hits = search_one(searcher, QUERY, config, limit=6)
    assert [hit.rerank_score for hit in hits] == sorted((len(h.text) for h in hits), reverse=True)
    assert len(hits) == 6


def test_reranked_ties_keep_the_order_of_the_search(
    local_settings: Settings, corpus: Corpus, encoder
):
    class Indifferent(LongestFirst):
        def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
            return [1.0] * len(pairs)

    searcher = open_searcher(local_settings, corpus, encoder, reranker=Indifferent())
    config = RetrievalConfig(rerank=RerankConfig(model="x"))
    plain = search_one(searcher, QUERY, RetrievalConfig())
    assert [hit.text for hit in search_one(searcher, QUERY, config)] == [h.text for h in plain]


def test_the_store_is_free_while_a_reranker_works(
    local_settings: Settings, corpus: Corpus, encoder
):
    from filelock import FileLock

    class Checking(LongestFirst):
        def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
            with FileLock(local_settings.home / "qdrant.lock", timeout=0):
                return super().scores(pairs)

    searcher = open_searcher(local_settings, corpus, encoder, reranker=Checking())
    assert search_one(searcher, QUERY, RetrievalConfig(rerank=RerankConfig(model="x")))


# Expansion


@pytest.fixture
def chaptered() -> Corpus:
    """Two documents of three and two paragraphs, each a chunk, with blank lines between."""
    documents, chunks = [], []
    for name, paragraphs in {"one": TEXTS[:3], "two": TEXTS[3:5]}.items():
        text = "\n\n".join(paragraphs)
        documents.append(
            Document(
                document_id=name,
                source_uri=f"file:{name}.md",
                title=name.title(),
                media_type="text/markdown",
                text=text,
                content_sha256="0" * 64,
            )
        )
        chunks += [
            Chunk(
                chunk_id=str(uuid.uuid5(uuid.NAMESPACE_URL, paragraph)),
                document_id=name,
                ordinal=ordinal,
                start=text.index(paragraph),
                end=text.index(paragraph) + len(paragraph),
                text=paragraph,
                num_tokens=10,
                heading_path=("Top", f"Part {ordinal // 2}"),
            )
            for ordinal, paragraph in enumerate(paragraphs)
        ]
    return Corpus(tuple(documents), tuple(chunks))


def test_hits_grow_into_passages_of_the_indexed_corpus(
    workspace: Workspace, chaptered: Corpus, make_corpus_artifact, encoder
):
    corpus_ref = make_corpus_artifact(workspace, chaptered)
    result = build_index(workspace, "demo", IndexConfig(), corpus_ref, encoder=encoder)
    assert latest_index(workspace, "demo") == result.ref
    searcher = Searcher.open(workspace, result.ref, encoder=encoder)
    texts = {document.document_id: document.text for document in chaptered.documents}

    config = RetrievalConfig(expand=ExpandConfig(unit="neighbours"))
    hits = search_one(searcher, QUERY, config)
    assert sorted(hit.document_id for hit in hits) == ["one", "two"]  # one passage each
    assert all(hit.text == texts[hit.document_id] for hit in hits)
    ids = {chunk.chunk_id for chunk in chaptered.chunks}
    assert {each for each in ids for hit in hits if hit.covers(each)} == ids

    config = RetrievalConfig(expand=ExpandConfig(unit="section"), mmr_lambda=0.9)
    hits = search_one(searcher, "mutable sequence items", config)
    assert hits[0].text == "\n\n".join(TEXTS[:2])
    assert all(hit.text == texts[hit.document_id][hit.start : hit.end] for hit in hits)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))

    config = RetrievalConfig(expand=ExpandConfig(unit="neighbours", max_tokens=10))
    assert sorted(hit.text for hit in search_one(searcher, QUERY, config)) == sorted(TEXTS[:5])


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
