"""Processed inputs to the files of a corpus: every input is accounted for, copies go once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from pipeline_lib.config import ChunkConfig
from pipeline_lib.config.corpus import DeduplicationConfig
from pipeline_lib.corpus.build import CorpusSummary, build_corpus
from pipeline_lib.corpus.chunking import Chunker
from pipeline_lib.corpus.drops import DropReason, make_drop
from pipeline_lib.corpus.processed import ProcessedDocument, ProcessedInput
from pipeline_lib.corpus.schema import Corpus, Document, Drop
from pipeline_lib.corpus.sources.base import SourceInput, SourceScan
from pipeline_lib.errors import InputError, TooManyDropsError
from pipeline_lib.progress import NullProgress

FILES = ("documents", "chunks", "drops", "duplicates", "snapshot")


class RecordedProgress(NullProgress):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None, str]] = []
        self.num_done = 0

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        self.phases.append((description, total, unit))

    def advance(self, count: int = 1) -> None:
        self.num_done += count


@pytest.fixture
def chunker(word_tokenizer: Tokenizer) -> Chunker:
    return Chunker(word_tokenizer, ChunkConfig(size_tokens=16))


@pytest.fixture
def build(
    tmp_path: Path, chunker: Chunker, source_input: Callable[..., SourceInput]
) -> Callable[..., CorpusSummary]:
    """Build a corpus from what each input became: a list of documents and drops."""

    def run(
        name: str,
        outcomes: Sequence[Sequence[Document | Drop]],
        scan_drops: Sequence[Drop] = (),
        max_dropped_fraction: float = 1.0,
        is_cut: bool = True,
        **options: Any,
    ) -> CorpusSummary:
        (tmp_path / name).mkdir()
        inputs = tuple(source_input(f"file:d/{n}") for n in range(len(outcomes)))
        processed = []
        for item, outcome in zip(inputs, outcomes, strict=True):
            found = [each for each in outcome if isinstance(each, Document)]
            documents = (
                replace(document, input_uri=item.uri, input_ordinal=n)
                for n, document in enumerate(found)
            )
            processed.append(
                ProcessedInput(
                    tuple(
                        ProcessedDocument(
                            document, tuple(chunker.chunk(document)) if is_cut else None
                        )
                        for document in documents
                    ),
                    tuple(each for each in outcome if isinstance(each, Drop)),
                )
            )
        given = {
            "before": {},
            "chunker": lambda: chunker,
            "deduplication": DeduplicationConfig(near_duplicates=False),
            "progress": NullProgress(),
        }
        return build_corpus(
            tmp_path / name,
            SourceScan(inputs, tuple(scan_drops), "sha256:0"),
            iter(processed),
            max_dropped_fraction=max_dropped_fraction,
            **(given | options),
        )

    return run


def drop(reason: DropReason, uri: str = "file:d/x", detail: str = "detail") -> Drop:
    return make_drop(uri, reason, detail)


@pytest.fixture
def one(document: Callable[..., Document]) -> Document:
    return replace(
        document("The first document says one thing.", source_uri="file:d/one"),
        language="en",
        encoding="utf-8",
        redactions_json=json.dumps({"email": 2}),
    )


@pytest.fixture
def two(document: Callable[..., Document]) -> Document:
    return document("The second document says another thing.", source_uri="file:d/two")


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def test_every_input_is_a_document_or_a_counted_drop(
    build: Callable[..., CorpusSummary], one: Document, two: Document, tmp_path: Path
) -> None:
    copy = replace(one, source_uri="file:d/copy", document_id="c" * 32)
    summary = build(
        "out",
        [[one, drop(DropReason.BROKEN_JSON)], [drop(DropReason.EMPTY)], [copy, two]],
        [drop(DropReason.HIDDEN), drop(DropReason.TOO_LARGE)],
    )
    assert summary.dropped == {
        "hidden": 1,
        "too_large": 1,
        "broken_json": 1,
        "empty": 1,
        "duplicate": 1,
    }
    assert (summary.num_inputs, summary.num_documents, summary.num_chunks) == (7, 2, 2)
    assert summary.largest_chunk_tokens == 7
    assert summary.num_chunk_tokens == 14
    assert summary.languages == {"en": 1}
    assert summary.encodings == {"utf-8": 1}
    assert summary.media_types == {"text/plain": 2}
    assert summary.redactions == {"email": 2}
    assert summary.changes == {"added": 3}
    folder = tmp_path / "out"
    corpus = Corpus.load(folder)
    assert [d.source_uri for d in corpus.documents] == ["file:d/one", "file:d/two"]
    assert Counter(row["reason"] for row in rows(folder, "drops")) == summary.dropped
    [removed] = rows(folder, "duplicates")
    assert (removed["source_uri"], removed["text"]) == ("file:d/copy", one.text)


def test_every_row_of_the_drops_says_what_to_do(
    build: Callable[..., CorpusSummary], one: Document, tmp_path: Path
) -> None:
    bare = [
        Drop(source_uri=f"file:{reason}", reason=reason.value, detail="found")
        for reason in DropReason
    ]
    build("out", [[one]], bare)
    found = rows(tmp_path / "out", "drops")
    assert len(found) == len(DropReason)
    assert all(len(row["remedy"]) > 10 and row["remedy"].endswith(".") for row in found)


def test_chunks_point_into_their_documents(
    build: Callable[..., CorpusSummary], document: Callable[..., Document], tmp_path: Path
) -> None:
    texts = [" ".join(f"word{i} of text{n}." for i in range(30)) for n in range(3)]
    build("out", [[document(text, source_uri=f"file:d/{n}")] for n, text in enumerate(texts)])
    corpus = Corpus.load(tmp_path / "out")
    assert len(corpus.chunks) > 9
    by_id = {each.document_id: each.text for each in corpus.documents}
    assert all(by_id[c.document_id][c.start : c.end] == c.text for c in corpus.chunks)


def test_the_way_documents_came_does_not_change_the_files(
    build: Callable[..., CorpusSummary], one: Document, two: Document, tmp_path: Path
) -> None:
    """Chunks from the parser process, or cut here because the corpus before had none."""
    outcome = [[one, drop(DropReason.EMPTY)], [two]]
    build("cut", outcome)
    build("not cut", outcome, is_cut=False)
    for name in FILES:
        first, second = (tmp_path / way / f"{name}.parquet" for way in ("cut", "not cut"))
        assert first.read_bytes() == second.read_bytes()


def test_of_equal_documents_the_first_in_the_scans_order_stays(
    build: Callable[..., CorpusSummary], one: Document, tmp_path: Path
) -> None:
    copy = replace(one, source_uri="file:d/copy", document_id="c" * 32)
    build("a", [[one], [copy]])
    build("b", [[copy], [one]])
    kept = [rows(tmp_path / name, "documents")[0]["source_uri"] for name in "ab"]
    assert kept == ["file:d/one", "file:d/copy"]
    [row] = rows(tmp_path / "b", "drops")
    assert (row["source_uri"], row["input_uri"], row["reason"]) == (
        "file:d/one",
        "file:d/1",
        "duplicate",
    )
    assert "file:d/copy" in row["detail"]


def test_too_many_drops_name_the_reasons_with_an_example_each(
    build: Callable[..., CorpusSummary], one: Document
) -> None:
    """The hidden entry is skipped by rule and counts on neither side."""
    dropped = [drop(DropReason.EMPTY, "file:e")] * 2 + [drop(DropReason.BINARY, "file:b")]
    with pytest.raises(TooManyDropsError) as caught:
        build("out", [[one]], [*dropped, drop(DropReason.HIDDEN)], max_dropped_fraction=0.5)
    message = caught.value.message
    assert message.startswith("3 of 4 inputs (75%) were dropped, more than")
    assert "max_dropped_fraction = 0.5" in message
    assert "empty: 2, for example file:e (detail); binary: 1, for example file:b" in message
    assert "ingest.max_dropped_fraction" in str(caught.value.hint)


def test_drops_up_to_the_limit_are_accepted(
    build: Callable[..., CorpusSummary], one: Document
) -> None:
    build("half", [[one], [drop(DropReason.EMPTY)]], max_dropped_fraction=0.5)
    with pytest.raises(TooManyDropsError, match="1 of 2 inputs"):
        build("less", [[one], [drop(DropReason.EMPTY)]], max_dropped_fraction=0.49)


def test_hidden_entries_are_not_held_against_the_corpus(
    build: Callable[..., CorpusSummary], one: Document
) -> None:
    summary = build("out", [[one]], [drop(DropReason.HIDDEN)] * 9, max_dropped_fraction=0)
    assert summary.dropped == {"hidden": 9}


def test_no_document_left_is_an_error_even_when_all_drops_are_allowed(
    build: Callable[..., CorpusSummary],
) -> None:
    with pytest.raises(InputError, match="The sources hold no files"):
        build("none", [])
    with pytest.raises(InputError, match=r"None of the 1 inputs.*unsupported_type: 1.*file:d/x"):
        build("unsupported", [], [drop(DropReason.UNSUPPORTED_TYPE)])


def test_progress_has_a_total_and_reaches_it(
    build: Callable[..., CorpusSummary], one: Document, two: Document
) -> None:
    progress = RecordedProgress()
    build("out", [[one], [two], [drop(DropReason.EMPTY)]], progress=progress)
    assert progress.phases == [("Joining", 3, "inputs")]
    assert progress.num_done == 3


def test_a_summary_that_does_not_add_up_is_refused() -> None:
    summary = CorpusSummary(num_inputs=3, num_documents=1, dropped=Counter(empty=1))
    with pytest.raises(AssertionError, match="3 inputs became 1 documents and 1 drops"):
        summary.check()
