"""The stage on a real object store; where a test says so, with real parser processes."""

from __future__ import annotations

import os
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.config import SAMPLE_SOURCE, ChunkConfig, IngestConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.corpus.stage import ingest, plan_ingest
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.stage import Workspace
from tests.corpus.made_ingests import FILES, config, rows


def test_a_corpus_is_published_with_counts_and_reasons(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    result = ingest(workspace, "tiny", config(docs, model_folder))
    assert (result.ref.kind, result.ref.name, result.reused) == ("corpus", "tiny", False)
    assert result.counts["num_inputs"] == 3
    assert result.counts["num_documents"] == 2
    assert result.counts["num_chunks"] == 2
    assert result.counts["num_chunk_tokens"] == 16
    assert sum(result.dropped.values()) == 1
    corpus = Corpus.load(workspace.artifacts.directory(result.ref))
    assert [document.title for document in corpus.documents] == ["a", "Second"]
    manifest = workspace.artifacts.manifest(result.ref)
    assert manifest.inputs.keys() == {"sources", "embedding_model"}
    assert {file.path for file in manifest.files} == {*FILES, "snapshot.parquet"}
    details = manifest.details
    assert details["encodings"] == {"utf-8": 2}
    assert details["media_types"] == {"text/plain": 1, "text/markdown": 1}
    assert details["largest_chunk_tokens"] == 9
    assert len(details["tokenizer_identity"]) == 64
    assert workspace.artifacts.partial(result.ref).keys() == []
    [drop] = rows(workspace, result, "drops")
    assert drop["source_uri"] == "file:docs/c.bin"
    assert drop["remedy"]


@pytest.mark.parametrize(
    "changes",
    [
        {"chunking": ChunkConfig(size_tokens=31)},
        {"chunking": ChunkConfig(size_tokens=32, overlap_tokens=1)},
        {"limits": {"max_file_bytes": 1000}},
        {"filters": {"min_chars": 2}},
        {"deduplication": {"near_duplicates": False}},
        {"max_dropped_fraction": 0.9},
    ],
)
@pytest.mark.usefixtures("inline")
def test_other_configuration_makes_another_corpus(
    workspace: Workspace, docs: Path, model_folder: Path, changes: dict[str, object]
) -> None:
    first = plan_ingest(workspace, "tiny", config(docs, model_folder))
    other = plan_ingest(workspace, "tiny", config(docs, model_folder, **changes))
    assert other.ref != first.ref


@pytest.mark.parametrize("changes", [{"num_workers": 3}, {"shard_inputs": 1}, {"shard_bytes": 1}])
@pytest.mark.usefixtures("inline")
def test_how_the_work_is_spread_does_not_make_another_corpus(
    workspace: Workspace, docs: Path, model_folder: Path, changes: dict[str, object]
) -> None:
    first = plan_ingest(workspace, "tiny", config(docs, model_folder))
    other = plan_ingest(workspace, "tiny", config(docs, model_folder, **changes))
    assert other.ref == first.ref


@pytest.mark.usefixtures("inline")
def test_another_tokenizer_under_the_same_path_makes_another_corpus(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    first = plan_ingest(workspace, "tiny", config(docs, model_folder))
    file = model_folder / "tokenizer.json"
    file.write_text(file.read_text().replace("[UNK]", "[unk]"))
    assert plan_ingest(workspace, "tiny", config(docs, model_folder)).ref != first.ref


@pytest.mark.usefixtures("inline")
def test_a_failed_ingest_publishes_nothing(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    with pytest.raises(InputError):
        ingest(workspace, "tiny", config(docs, model_folder, max_dropped_fraction=0.1))
    with pytest.raises(ConfigError, match="reads at most 64 tokens"):
        ingest(workspace, "tiny", config(docs, model_folder, chunking=ChunkConfig(size_tokens=65)))
    assert workspace.artifacts.refs(kind="corpus") == []


@pytest.mark.usefixtures("inline")
def test_an_empty_folder_is_an_error_that_says_so(
    workspace: Workspace, tmp_path: Path, model_folder: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="The sources hold no files") as caught:
        ingest(workspace, "tiny", config(tmp_path / "empty", model_folder))
    assert "ingest.sources" in str(caught.value.hint)


@pytest.mark.usefixtures("inline")
def test_a_folder_of_unreadable_files_is_an_error_with_reasons(
    workspace: Workspace, tmp_path: Path, model_folder: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "nothing.txt").symlink_to(tmp_path / "gone")
    (folder / "noise.txt").write_bytes(bytes(range(256)) * 8)
    (folder / "empty.md").write_text("")
    with pytest.raises(InputError, match=r"None of the 3 inputs became a document\. Most common"):
        ingest(workspace, "tiny", config(folder, model_folder, max_dropped_fraction=1))


@pytest.mark.usefixtures("inline")
def test_a_text_file_of_a_gigabyte_is_dropped_unread(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    with (docs / "huge.txt").open("wb") as stream:
        stream.truncate(1_000_000_000)
    result = ingest(workspace, "tiny", config(docs, model_folder))
    assert result.dropped["too_large"] == 1
    [drop] = [row for row in rows(workspace, result, "drops") if row["reason"] == "too_large"]
    assert drop["source_uri"] == "file:docs/huge.txt"
    assert "1000000000" in drop["detail"].replace(",", "")
    assert "ingest.limits.max_file_bytes" in drop["remedy"]
    assert result.seconds < 30


@pytest.mark.usefixtures("inline")
def test_the_sample_corpus_with_the_real_tokenizer(workspace: Workspace, minilm_path: Path) -> None:
    """79 pages in CPython 3.11; one is a copy of another."""
    wanted = IngestConfig(embedding_model=str(minilm_path))
    result = ingest(workspace, "sample", wanted)
    counts = result.counts
    assert counts["num_added"] == counts["num_inputs"] > 70
    copies = result.dropped["duplicate"] + result.dropped.get("near_duplicate", 0)
    assert counts["num_documents"] + copies == counts["num_inputs"]
    assert counts["num_chunks"] > 900
    largest = workspace.artifacts.manifest(result.ref).details["largest_chunk_tokens"]
    assert 140 < largest <= 160
    corpus = Corpus.load(workspace.artifacts.directory(result.ref))
    texts = {document.document_id: document.text for document in corpus.documents}
    assert all(texts[c.document_id][c.start : c.end] == c.text for c in corpus.chunks)
    titles = {document.source_uri: document.title for document in corpus.documents}
    assert titles[f"{SAMPLE_SOURCE}/assert"] == 'The "assert" statement'


_MEASURE = """
import json, resource, sys
from pathlib import Path
from pipeline_lib.config import ChunkConfig, IngestConfig
from pipeline_lib.corpus import stage, writing
from pipeline_lib.corpus.process import _TABLE, _ipc
from pipeline_lib.corpus.processed import ProcessedDocument, ProcessedInput, to_table
from pipeline_lib.corpus.sandbox import Done
from pipeline_lib.corpus.schema import Chunk, Document
from pipeline_lib.corpus.sources.locators import FileLocator
from pipeline_lib.stage import Workspace

class Pool:
    "As quick as can be: every 2,000 characters are a chunk."
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def map(self, payloads):
        for item, _ in payloads:
            text, uri = item.locator.to_path().read_text(), item.uri
            chunks = tuple(
                Chunk(chunk_id=f"{uri}{n}", document_id=uri, ordinal=n, start=n, end=n + 2000,
                      text=text[n : n + 2000], num_tokens=9)
                for n in range(0, len(text), 2000)
            )
            document = Document(document_id=uri, source_uri=uri, title="", media_type="text/plain",
                                text=text, content_sha256=item.content_sha256)
            made = ProcessedInput((ProcessedDocument(document, chunks),), ())
            yield item, Done(_TABLE + _ipc(to_table(made)))

stage.open_pool = lambda *args, **options: Pool()
writing.ROW_GROUP_BYTES = writing.ROW_GROUP_CHARS = 1_000_000
docs, model = sys.argv[1:]
config = IngestConfig(sources=(docs,), embedding_model=model, shard_bytes=2_000_000,
                      chunking=ChunkConfig(size_tokens=60),
                      deduplication={"near_duplicates": False})
result = stage.ingest(Workspace.open(), Path(docs).name, config)
print(result.counts["num_documents"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def measure(docs: Path, model: Path) -> tuple[int, int]:
    """Documents, and peak memory in bytes, of an ingest in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(docs), str(model)],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},
    )
    documents, peak = done.stdout.split()
    return int(documents), int(peak)


def test_memory_does_not_grow_with_the_corpus(
    workspace: Workspace, tmp_path: Path, model_folder: Path
) -> None:
    """Fourteen times the text, the same peak; its 28 MB, held as chunks too, would be 56 MB."""
    rng = random.Random(0)
    for name, count in (("small", 4), ("large", 56)):
        (tmp_path / name).mkdir()
        for number in range(count):
            text = " ".join(rng.choices(string.ascii_letters, k=250_000))
            (tmp_path / name / f"{number}.txt").write_text(text)
    few, low = measure(tmp_path / "small", model_folder)
    many, high = measure(tmp_path / "large", model_folder)
    assert (few, many) == (4, 56)
    assert high - low < 20_000_000
