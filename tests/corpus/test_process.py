"""One input from bytes to chunks: what a parser process does, and what its answers mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from pipeline_lib.config import ChunkConfig, IngestConfig
from pipeline_lib.config.corpus import DeduplicationConfig, FilterConfig
from pipeline_lib.corpus import sandbox
from pipeline_lib.corpus.chunking import Chunker
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.process import (
    PROCESS_TARGET,
    process_input,
    processing_key,
    processor_options,
    read_answer,
)
from pipeline_lib.corpus.processed import ProcessedInput, read_processed, to_table
from pipeline_lib.corpus.sandbox import Done, SandboxPool
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.corpus.sources.locators import FileLocator, source_input_to_json
from pipeline_lib.corpus.writing import TableWriter
from pipeline_lib.errors import InputError
from pipeline_lib.settings import Settings

MakeInput = Callable[..., SourceInput]
Process = Callable[[str, bytes], ProcessedInput]


@pytest.fixture
def process(word_tokenizer: Tokenizer, source_input: MakeInput) -> Process:
    chunker = Chunker(word_tokenizer, ChunkConfig(size_tokens=16))

    def run(name: str, data: bytes) -> ProcessedInput:
        item = source_input(f"file:d/{name}", data)
        return process_input(item, lambda _: data, IngestConfig(), chunker)

    return run


def test_a_file_becomes_a_document_with_its_chunks(process: Process) -> None:
    found = process("a.md", b"# Title\n\nSome text of the document.")
    [each] = found.documents
    assert (each.document.title, each.document.input_uri) == ("Title", "file:d/a.md")
    assert each.chunks is not None
    assert all(each.document.text[c.start : c.end] == c.text for c in each.chunks)
    assert found.drops == ()


def test_what_a_parser_refuses_is_a_drop_that_names_its_input(process: Process) -> None:
    found = process("a.txt", b"\x00\x01\x02\x03\x00\xff")
    assert found.documents == ()
    [drop] = found.drops
    assert drop.input_uri == "file:d/a.txt"
    assert drop.remedy


def test_a_refusal_to_read_is_a_drop(source_input: MakeInput, word_tokenizer: Tokenizer) -> None:
    def refuse(_: SourceInput) -> bytes:
        raise RefusedInputError(DropReason.ARCHIVE_BOMB, "it unpacks to 10 TB")

    chunker = Chunker(word_tokenizer, ChunkConfig(size_tokens=16))
    found = process_input(source_input("file:d.zip!/a"), refuse, IngestConfig(), chunker)
    assert [drop.reason for drop in found.drops] == ["archive_bomb"]


def test_an_answer_survives_the_way_to_the_corpus(process: Process, tmp_path: Path) -> None:
    """Table, shard file and back: sections, places, metadata and drops as they were."""
    found = [
        process("a.md", b"---\nyear: 2020\n---\n# Title\n\nText.\n\n## Part\n\nMore text."),
        process("b.txt", b"\x00\x01"),
    ]
    with TableWriter(tmp_path / "x.parquet", to_table(found[0]).schema) as writer:
        for each in found:
            writer.write(to_table(each))
    assert list(read_processed(tmp_path / "x.parquet")) == found
    assert len(found[0].documents[0].document.sections) == 2


def test_errors_that_no_drop_can_stand_for_are_raised_again() -> None:
    told = {"kind": "StoreUnavailableError", "message": "503", "hint": None}
    with pytest.raises(Exception, match="503") as caught:
        read_answer(b"E" + json.dumps(told).encode())
    assert type(caught.value).__name__ == "StoreUnavailableError"
    assert caught.value.is_transient  # type: ignore[attr-defined]


def test_processing_changes_with_what_shapes_documents_and_with_nothing_else() -> None:
    base = IngestConfig()
    same = [
        base.model_copy(update={"sources": ("elsewhere",), "num_workers": 3}),
        base.model_copy(update={"max_dropped_fraction": 0.1}),
        base.model_copy(update={"deduplication": DeduplicationConfig(threshold=0.5)}),
    ]
    assert {processing_key(config, "t") for config in [base, *same]} == {processing_key(base, "t")}
    others = [
        processing_key(base, "another tokenizer"),
        processing_key(base.model_copy(update={"chunking": ChunkConfig(size_tokens=99)}), "t"),
        processing_key(base.model_copy(update={"filters": FilterConfig(min_chars=9)}), "t"),
    ]
    assert len({processing_key(base, "t"), *others}) == 4


def test_options_hold_no_keys_of_services_that_parsers_do_not_need(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Settings(teacher_api_key="teacher-key", qdrant_api_key="qdrant-key")
    options = processor_options(told, IngestConfig(), Path("/model"))
    assert b"teacher-key" not in options
    assert b"qdrant-key" not in options
    assert json.loads(options)["settings"]["s3_bucket"] == settings.s3_bucket


def test_a_parser_process_reads_its_inputs_itself_one_after_the_other(
    settings: Settings,
    model_folder: Path,
    source_input: MakeInput,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = b"The first document says one thing."
    file = tmp_path / "a.txt"
    file.write_bytes(data)
    item = source_input("file:a.txt", data, locator=FileLocator.of(file))
    started = []

    class Child(sandbox._Child):
        def start(self, factory_argument: bytes) -> None:
            started.append(self)
            super().start(factory_argument)

    monkeypatch.setattr(sandbox, "_Child", Child)
    config = IngestConfig(chunking=ChunkConfig(size_tokens=16))
    pool = SandboxPool(
        PROCESS_TARGET,
        processor_options(settings, config, model_folder),
        num_workers=1,
        max_seconds=60,
        max_memory_bytes=2_000_000_000,
    )
    changed = source_input("file:b.txt", b"something else", locator=item.locator)
    with pool:
        (_, good), (_, bad) = pool.map(
            [(n, source_input_to_json(i)) for n, i in ((1, item), (2, changed))]
        )
    assert len(started) == 1, "what libraries reserve was taken for what the first input needs"
    assert isinstance(good, Done)
    assert isinstance(bad, Done)
    [row] = read_answer(good.data).to_pylist()
    assert [document["text"] for document in row["documents"]] == [data.decode()]
    with pytest.raises(InputError, match=r"file:b\.txt changed while the corpus was being read"):
        read_answer(bad.data)
