"""Plain text for domain-adaptive pre-training."""

from __future__ import annotations

from pipeline_lib.corpus.schema import Document
from pipeline_lib.raft.derived.pretraining import iter_pretraining, write_pretraining


def document(name: str, text: str) -> Document:
    return Document(
        document_id=name,
        source_uri=f"file:///{name}.txt",
        title=name.title(),
        media_type="text/plain",
        text=text,
        content_sha256="0" * 64,
    )


def test_only_documents_that_train_are_written(tmp_path) -> None:
    documents = [document(name, f"All about {name}.") for name in ("owl", "bat", "fox", "elk")]
    documents.append(document("void", " \n"))
    split_of = {"owl": "train", "bat": "test", "fox": "validation", "void": "train"}
    path = tmp_path / "pretraining.parquet"
    assert write_pretraining(path, documents, split_of) == 1  # type: ignore[arg-type]
    [written] = iter_pretraining(path)
    assert written.model_dump() == {
        "document_id": "owl",
        "title": "Owl",
        "text": "All about owl.",
        "source_uri": "file:///owl.txt",
    }


def test_without_training_documents_the_file_is_there_and_empty(tmp_path) -> None:
    path = tmp_path / "pretraining.parquet"
    assert write_pretraining(path, [], {}) == 0
    assert list(iter_pretraining(path)) == []
