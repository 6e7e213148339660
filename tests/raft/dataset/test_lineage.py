from __future__ import annotations

from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.corpus.documents import document_id
from pipeline_lib.errors import InputError
from pipeline_lib.raft.dataset.lineage import (
    LINEAGE_FILE,
    DatasetUse,
    LineageWriter,
    rows_of_document,
)
from pipeline_lib.raft.rows import Passage

PAGES = {"ash": ["Ash one.", "Ash two."], "birch": ["Birch one."], "cedar": ["Cedar one."]}


def uses(each: DatasetUse) -> set[tuple[str, str, str]]:
    return {(row.split, row.use, row.question) for row in each.rows}


@pytest.fixture
def dataset(library: Any, books: Any) -> ArtifactRef:
    """Ash is trained on, birch is tested; cedar accompanies both, and something made from it."""
    corpus = books.corpus(PAGES)
    ash, birch, cedar = (books.chunks(corpus, name) for name in PAGES)
    made_up = Passage(
        chunk_id="made-up-1",
        document_id=cedar[0].document_id,
        title="Cedar",
        text="Cedar none.",
        role="distractor",
        origin="adversarial",
        source_chunk_id=cedar[0].chunk_id,
    )
    rows = [
        books.row(corpus, [ash[0]], [cedar[0], made_up], question="Ash?"),
        books.row(corpus, [ash[1]], [cedar[0]], question="Gone?", oracle_present=False),
        books.row(corpus, [], [ash[1], cedar[0]], question="Who?"),
        books.row(corpus, [birch[0]], [cedar[0]], split="test", question="Birch?"),
    ]
    return library.publish_dataset(corpus, rows)


USES = {
    "ash": {("train", "oracle", "Ash?"), ("train", "source", "Gone?"), ("train", "source", "Who?")},
    "birch": {("test", "oracle", "Birch?")},
    "cedar": {
        ("train", "distractor", "Ash?"),
        ("train", "made_up_from", "Ash?"),
        ("train", "distractor", "Gone?"),
        ("train", "distractor", "Who?"),
        ("test", "distractor", "Birch?"),
    },
}


def test_every_use_of_a_document_is_found(library: Any, books: Any, dataset: ArtifactRef) -> None:
    for name, expected in USES.items():
        found = rows_of_document(library.ws.artifacts, books.uri(name))
        (each,) = found.datasets
        assert each.dataset == dataset
        assert uses(each) == expected
        assert found.source_uri == books.uri(name)


def test_rows_name_the_version_of_the_document(
    library: Any, books: Any, dataset: ArtifactRef
) -> None:
    corpus = books.corpus({**PAGES, "ash": ["Ash anew."]})
    row = books.row(corpus, [books.chunks(corpus, "ash")[0]])
    later = library.publish_dataset(corpus, [row])
    found = rows_of_document(library.ws.artifacts, books.uri("ash"))
    assert [each.dataset for each in found.datasets] == [dataset, later]
    versions = [{row.content_sha256 for row in each.rows} for each in found.datasets]
    assert versions[0] == {books.corpus(PAGES).documents[0].content_sha256}
    assert versions[1] == {corpus.documents[0].content_sha256}


def test_a_document_is_known_by_id_uri_or_the_end_of_it(
    library: Any, books: Any, dataset: ArtifactRef
) -> None:
    wanted = document_id(books.uri("ash"))
    for name in (wanted, books.uri("ash"), "/ash.txt", "ash.txt"):
        assert rows_of_document(library.ws.artifacts, name).document_id == wanted


def test_models_saw_what_trained_them_and_what_they_were_trained_on_from(
    library: Any, books: Any, dataset: ArtifactRef
) -> None:
    model = library.publish_bare("model", {"dataset": dataset})
    tuned_further = library.publish_bare("model", {"base": model})
    library.publish_bare("evaluation", {"model": model, "dataset": dataset})
    library.publish_bare("model", {"dataset": library.publish_bare("dataset", {})})
    found = rows_of_document(library.ws.artifacts, "ash.txt")
    assert found.models == [model, tuned_further]
    assert found.num_unrecorded == 1
    only_tested = rows_of_document(library.ws.artifacts, "birch.txt")
    assert only_tested.datasets[0].models == (model, tuned_further)
    assert only_tested.models == []


def test_a_document_that_no_row_uses_is_known_from_its_corpus(library: Any, books: Any) -> None:
    library.publish_corpus(books.corpus(PAGES))
    found = rows_of_document(library.ws.artifacts, "birch.txt")
    assert (found.source_uri, found.datasets, found.models) == (books.uri("birch"), (), [])


def test_unknown_and_ambiguous_documents_are_errors_that_show_what_there_is(
    library: Any, books: Any, dataset: ArtifactRef
) -> None:
    artifacts = library.ws.artifacts
    with pytest.raises(InputError, match="3 documents have a URI that ends with"):
        rows_of_document(artifacts, ".txt")
    with pytest.raises(InputError, match="has a document 'oak'") as caught:
        rows_of_document(artifacts, "oak")
    assert books.uri("ash") in str(caught.value.hint)


def test_an_empty_store_says_so(library: Any) -> None:
    with pytest.raises(InputError) as caught:
        rows_of_document(library.ws.artifacts, "oak")
    assert "there is no corpus yet" in str(caught.value.hint)


def test_plain_text_is_recorded_too_and_an_empty_record_can_be_read(
    tmp_path: Any, books: Any
) -> None:
    import pyarrow.parquet as pq

    corpus = books.corpus(PAGES)
    with LineageWriter(tmp_path, corpus.documents):
        pass
    assert pq.read_table(tmp_path / LINEAGE_FILE).num_rows == 0
    with LineageWriter(tmp_path, corpus.documents) as lineage:
        lineage.write_text(corpus.documents[0].document_id)
    (record,) = pq.read_table(tmp_path / LINEAGE_FILE).to_pylist()
    assert (record["use"], record["split"], record["row_id"]) == ("text", "train", "")
