"""Filters, maximal marginal relevance, reranking and expansion, in a real local collection."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest

from pipeline_lib.config import (
    ExpandConfig,
    IndexConfig,
    RerankConfig,
    RetrievalConfig,
    SearchFilter,
)
from pipeline_lib.corpus.schema import Chunk, Corpus, Document
from pipeline_lib.retrieval.search import Searcher, latest_index
from pipeline_lib.retrieval.stage import build_index
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace
from tests.retrieval.made_collection import DENSE, QUERY, TEXTS, open_searcher, scores, search_one

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
