"""A whole corpus from files: every input is a document or a drop, in bounded memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from pipeline_lib.config import SAMPLE_SOURCE, ChunkConfig
from pipeline_lib.corpus.build import CorpusSummary, build_corpus
from pipeline_lib.corpus.chunking import Chunker, load_tokenizer
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.corpus.sources import scan_sources
from pipeline_lib.errors import InputError, TooManyDropsError
from pipeline_lib.progress import NullProgress


class RecordedProgress(NullProgress):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None, str]] = []
        self.num_done = 0

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        self.phases.append((description, total, unit))
        self.num_done = 0

    def advance(self, count: int = 1) -> None:
        self.num_done += count


def build(
    source: object,
    tokenizer: Tokenizer,
    directory: Path,
    *,
    max_dropped_fraction: float = 1.0,
    progress: NullProgress | None = None,
    config: ChunkConfig | None = None,
) -> CorpusSummary:
    directory.mkdir()
    return build_corpus(
        directory,
        scan_sources([str(source)], max_file_bytes=10_000, progress=progress),
        Chunker(tokenizer, config or ChunkConfig(size_tokens=16)),
        max_dropped_fraction=max_dropped_fraction,
        progress=progress or NullProgress(),
    )


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Thirteen inputs: five become documents, two are hidden, six are dropped for other reasons."""
    folder = tmp_path / "docs"
    (folder / ".git").mkdir(parents=True)
    (folder / ".hidden.txt").write_text("hidden")
    (folder / "a.txt").write_text("The first document says one thing.")
    (folder / "b.md").write_text("# Second\n\nThe second document says another thing.")
    (folder / "c.html").write_text("<p>The third document is a page.</p>")
    (folder / "copy.txt").write_text("The first document says one thing.\r\n")
    (folder / "empty.rst").write_text("  \n")
    (folder / "large.txt").write_text("x" * 10_001)
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "wrong.txt").write_bytes(b"\x00\x01\x02")
    lines = [json.dumps({"text": "Fourth."}), "{broken", json.dumps({"text": "Fifth."})]
    (folder / "records.jsonl").write_text("\n".join(lines))
    return folder


def test_every_input_is_a_document_or_a_counted_drop(
    docs: Path, tmp_path: Path, word_tokenizer: Tokenizer
) -> None:
    summary = build(docs, word_tokenizer, tmp_path / "out")
    assert summary.dropped == {
        "hidden": 2,
        "duplicate": 1,
        "empty": 1,
        "too_large": 1,
        "unsupported_type": 1,
        "binary": 1,
        "broken_json": 1,
    }
    assert (summary.num_inputs, summary.num_documents) == (13, 5)
    corpus = Corpus.load(tmp_path / "out")
    assert [(d.source_uri, d.title) for d in corpus.documents][:3] == [
        ("file:docs/a.txt", "a"),
        ("file:docs/b.md", "Second"),
        ("file:docs/c.html", "c"),
    ]
    assert (len(corpus.documents), len(corpus.chunks)) == (5, summary.num_chunks)
    drops = pq.read_table(tmp_path / "out" / "drops.parquet").to_pylist()
    assert Counter(drop["reason"] for drop in drops) == summary.dropped
    assert {d["source_uri"]: d["detail"] for d in drops}["file:docs/copy.txt"] == (
        "its text equals that of file:docs/a.txt, which was kept"
    )


def test_chunks_point_into_their_documents(
    docs: Path, tmp_path: Path, word_tokenizer: Tokenizer
) -> None:
    summary = build(docs, word_tokenizer, tmp_path / "out")
    corpus = Corpus.load(tmp_path / "out")
    texts = {document.document_id: document.text for document in corpus.documents}
    for chunk in corpus.chunks:
        assert texts[chunk.document_id][chunk.start : chunk.end] == chunk.text
    assert sum(chunk.num_tokens for chunk in corpus.chunks) == summary.num_chunk_tokens


def test_equal_sources_give_equal_bytes(
    docs: Path, tmp_path: Path, word_tokenizer: Tokenizer
) -> None:
    for name in ("one", "two"):
        build(docs, word_tokenizer, tmp_path / name)
    for file in ("documents.parquet", "chunks.parquet", "drops.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_too_many_drops_name_the_reasons_with_an_example_each(
    docs: Path, tmp_path: Path, word_tokenizer: Tokenizer
) -> None:
    """The two hidden entries are skipped by rule and count on neither side."""
    (docs / "other.png").write_bytes(b"")
    with pytest.raises(TooManyDropsError) as caught:
        build(docs, word_tokenizer, tmp_path / "out", max_dropped_fraction=0.5)
    message = caught.value.message
    assert message.startswith("7 of 12 inputs (58%) were dropped, more than")
    assert "max_dropped_fraction = 0.5" in message
    assert "unsupported_type: 2, for example file:docs/other.png (type '.png' is not" in message
    assert message.count("for example") == 3
    assert "ingest.max_dropped_fraction" in str(caught.value.hint)


def test_drops_up_to_the_limit_are_accepted(tmp_path: Path, word_tokenizer: Tokenizer) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("text")
    (docs / "b.png").write_bytes(b"")
    build(docs, word_tokenizer, tmp_path / "half", max_dropped_fraction=0.5)
    with pytest.raises(TooManyDropsError, match="1 of 2 inputs"):
        build(docs, word_tokenizer, tmp_path / "less", max_dropped_fraction=0.49)


def test_hidden_entries_are_not_held_against_the_corpus(
    tmp_path: Path, word_tokenizer: Tokenizer
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("text")
    for number in range(9):
        (docs / f".{number}").write_text("hidden")
    summary = build(docs, word_tokenizer, tmp_path / "out", max_dropped_fraction=0)
    assert summary.dropped == {"hidden": 9}


def test_no_document_left_is_an_error_even_when_all_drops_are_allowed(
    tmp_path: Path, word_tokenizer: Tokenizer
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    with pytest.raises(InputError, match="The sources hold no files"):
        build(docs, word_tokenizer, tmp_path / "none")
    (docs / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(InputError, match=r"None of the 1 inputs.*unsupported_type: 1.*a\.pdf"):
        build(docs, word_tokenizer, tmp_path / "pdf")


def test_progress_has_totals_and_reaches_them(
    docs: Path, tmp_path: Path, word_tokenizer: Tokenizer
) -> None:
    progress = RecordedProgress()
    build(docs, word_tokenizer, tmp_path / "out", progress=progress)
    assert progress.phases == [
        ("Checking sources", 11, "inputs"),
        ("Parsing and chunking", 7, "inputs"),
    ]
    assert progress.num_done == 7


def test_contents_are_read_one_at_a_time(
    docs: Path, tmp_path: Path, word_tokenizer: Tokenizer
) -> None:
    """Each input's bytes are gone before the next one is read."""
    scan = scan_sources([str(docs)], max_file_bytes=10_000)
    num_read = num_alive = 0

    class Watched(bytes):
        def __del__(self) -> None:
            nonlocal num_alive
            num_alive -= 1

    def watched(load: Callable[[], bytes]) -> Callable[[], bytes]:
        def read() -> bytes:
            nonlocal num_read, num_alive
            assert num_alive == 0
            num_read += 1
            num_alive += 1
            return Watched(load())

        return read

    inputs = tuple(replace(item, load=watched(item.load)) for item in scan.inputs)
    (tmp_path / "out").mkdir()
    build_corpus(
        tmp_path / "out",
        replace(scan, inputs=inputs),
        Chunker(word_tokenizer, ChunkConfig(size_tokens=16)),
        max_dropped_fraction=1,
        progress=NullProgress(),
    )
    assert num_read == len(inputs)


def test_a_summary_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(AssertionError, match="3 inputs became 1 documents and 1 drops"):
        CorpusSummary(
            num_inputs=3,
            num_documents=1,
            num_chunks=1,
            num_chunk_tokens=1,
            largest_chunk_tokens=1,
            dropped=Counter(empty=1),
            encodings=Counter(),
        )


def test_the_sample_corpus_with_the_real_tokenizer(tmp_path: Path, minilm_path: Path) -> None:
    """79 pages in CPython 3.11; one is a copy of another."""
    summary = build(
        SAMPLE_SOURCE, load_tokenizer(minilm_path), tmp_path / "out", config=ChunkConfig()
    )
    corpus = Corpus.load(tmp_path / "out")
    assert summary.num_inputs == len(scan_sources([SAMPLE_SOURCE], max_file_bytes=1).inputs) > 70
    assert summary.num_documents + summary.dropped["duplicate"] == summary.num_inputs
    assert 140 < summary.largest_chunk_tokens <= 160
    assert summary.num_chunks > 900
    texts = {document.document_id: document.text for document in corpus.documents}
    assert all(texts[c.document_id][c.start : c.end] == c.text for c in corpus.chunks)
    assert {d.source_uri: d.title for d in corpus.documents}[f"{SAMPLE_SOURCE}/assert"] == (
        'The "assert" statement'
    )
