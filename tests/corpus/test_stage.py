"""The stage on a real object store; where a test says so, with real parser processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import string
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline_lib.config import SAMPLE_SOURCE, ChunkConfig, IngestConfig
from pipeline_lib.corpus import shards, stage
from pipeline_lib.corpus.process import make_processor, processor_options
from pipeline_lib.corpus.sandbox import Done, Outcome, TimedOut
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.corpus.stage import finish_ingest, ingest, plan_ingest, prepare_shard
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.settings import Settings
from pipeline_lib.stage import StageResult, Workspace

FILES = ("documents.parquet", "chunks.parquet", "drops.parquet", "duplicates.parquet")


class InlinePool:
    """Parses in this process: starting another takes seconds."""

    def __init__(self, process: Callable[[bytes], bytes]) -> None:
        self._process = process

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *error: object) -> None: ...

    def map(self, payloads: Iterable[tuple[Any, bytes]]) -> Iterator[tuple[Any, Outcome]]:
        for key, payload in payloads:
            yield key, Done(self._process(payload))


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_pool(
        settings: Settings, config: IngestConfig, tokenizer_folder: Path, *, num_workers: int
    ) -> InlinePool:
        assert num_workers >= 1
        return InlinePool(make_processor(processor_options(settings, config, tokenizer_folder)))

    monkeypatch.setattr(stage, "open_pool", open_pool)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("The first document says one thing.")
    (folder / "b.md").write_text("# Second\n\nThe second document says another thing.")
    (folder / "c.bin").write_bytes(b"\x00\x01\x02")
    return folder


def config(docs: Path, model_folder: Path, **changes: object) -> IngestConfig:
    values: dict[str, object] = {
        "sources": (str(docs),),
        "embedding_model": str(model_folder),
        "chunking": ChunkConfig(size_tokens=32),
        "num_workers": 1,
    }
    return IngestConfig.model_validate(values | changes)


def hashes(ws: Workspace, result: StageResult) -> dict[str, str]:
    files = {file.path: file.sha256 for file in ws.artifacts.manifest(result.ref).files}
    return {name: files[name] for name in FILES}


def rows(ws: Workspace, result: StageResult, name: str) -> list[dict[str, Any]]:
    return pq.read_table(ws.artifacts.directory(result.ref) / f"{name}.parquet").to_pylist()


def parsed(ws: Workspace, result: StageResult) -> int:
    return int(ws.artifacts.manifest(result.ref).ledger["inputs_parsed"])


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


@pytest.mark.usefixtures("inline")
def test_unchanged_sources_are_reused_wherever_they_lie(
    workspace: Workspace, docs: Path, model_folder: Path, tmp_path: Path
) -> None:
    first = ingest(workspace, "tiny", config(docs, model_folder))
    moved = shutil.copytree(docs, tmp_path / "elsewhere" / "docs")
    again = ingest(workspace, "tiny", config(moved, model_folder))
    assert again.reused
    assert again.ref == first.ref
    assert again.counts == first.counts


@pytest.mark.usefixtures("inline")
def test_an_edited_file_makes_a_new_corpus_in_which_the_rest_keeps_its_ids(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    first = ingest(workspace, "tiny", config(docs, model_folder))
    (docs / "a.txt").write_text("The first document says something else.")
    second = ingest(workspace, "tiny", config(docs, model_folder))
    assert not second.reused
    assert second.ref != first.ref
    before, after = (
        Corpus.load(workspace.artifacts.directory(result.ref)) for result in (first, second)
    )
    assert [d.document_id for d in before.documents] == [d.document_id for d in after.documents]
    assert [a.chunk_id == b.chunk_id for a, b in zip(before.chunks, after.chunks, strict=True)] == [
        False,
        True,
    ]


@pytest.mark.usefixtures("inline")
def test_only_what_changed_is_parsed_and_the_snapshot_says_what_that_is(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    first = ingest(workspace, "tiny", config(docs, model_folder))
    assert parsed(workspace, first) >= 2
    (docs / "a.txt").write_text("The first document says something else.")
    (docs / "b.md").rename(docs / "d.md")
    second = ingest(workspace, "tiny", config(docs, model_folder))
    assert parsed(workspace, second) == 2
    changes = {row["input_uri"]: row["change"] for row in rows(workspace, second, "snapshot")}
    changes.pop("file:docs/c.bin", None)
    assert changes == {
        "file:docs/a.txt": "changed",
        "file:docs/d.md": "added",
        "file:docs/b.md": "removed",
    }
    assert second.counts["num_added"] == second.counts["num_changed"] == 1
    assert second.counts["num_removed"] == 1
    details = workspace.artifacts.manifest(second.ref).details
    assert details["previous"] == str(first.ref)
    # What is gone is named once, not for ever.
    (docs / "a.txt").write_text("The first document says a third thing.")
    third = ingest(workspace, "tiny", config(docs, model_folder))
    assert third.counts["num_removed"] == 0


@pytest.mark.usefixtures("inline")
def test_a_corpus_made_on_top_of_another_equals_one_made_from_nothing(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    """Also where the kept one of several copies goes, and a copy has to take its place."""
    text = "Some text that is in the folder three times, word for word, and long enough to count."
    for name in ("k1.txt", "k2.txt"):
        (docs / name).write_text(text)
    records = [{"id": n, "text": f"Record number {n} of these."} for n in range(3)]
    records.append({"id": "copy", "text": text})
    (docs / "r.jsonl").write_text("\n".join([*map(json.dumps, records), "{broken"]))
    first = ingest(workspace, "grown", config(docs, model_folder))
    assert first.dropped["duplicate"] == 2
    (docs / "k1.txt").write_text("Something else altogether.")
    (docs / "a.txt").unlink()
    grown = ingest(workspace, "grown", config(docs, model_folder))
    assert parsed(workspace, grown) == 1
    fresh = ingest(workspace, "fresh", config(docs, model_folder))
    assert parsed(workspace, fresh) > 3
    assert hashes(workspace, grown) == hashes(workspace, fresh)
    assert grown.ref.fingerprint == fresh.ref.fingerprint
    kept = {row["source_uri"] for row in rows(workspace, grown, "documents")}
    assert "file:docs/k2.txt" in kept
    # And back again: the copy is a copy again.
    (docs / "k1.txt").write_text(text + " ")
    back = ingest(workspace, "grown", config(docs, model_folder))
    kept = {row["source_uri"] for row in rows(workspace, back, "documents")}
    assert {"file:docs/k1.txt"} == kept & {"file:docs/k1.txt", "file:docs/k2.txt"}


@pytest.mark.usefixtures("inline")
def test_an_input_that_met_with_an_accident_gets_another_chance(
    workspace: Workspace, docs: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = shards._row
    with monkeypatch.context() as patched:
        patched.setattr(
            shards,
            "_row",
            lambda item, outcome: row(
                item, TimedOut(1.0) if item.uri.endswith("a.txt") else outcome
            ),
        )
        lenient = config(docs, model_folder, max_dropped_fraction=1)
        first = ingest(workspace, "tiny", lenient)
    assert first.dropped["timed_out"] == 1
    (docs / "new.txt").write_text("A new document.")
    second = ingest(workspace, "tiny", lenient)
    assert "timed_out" not in second.dropped
    assert parsed(workspace, second) == 2


@pytest.mark.usefixtures("inline")
def test_other_processing_takes_nothing_from_the_corpus_before(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    first = ingest(workspace, "tiny", config(docs, model_folder))
    other = config(docs, model_folder, chunking=ChunkConfig(size_tokens=16))
    second = ingest(workspace, "tiny", other)
    assert parsed(workspace, second) == parsed(workspace, first)
    assert second.counts["num_unchanged"] == first.counts["num_added"]


@pytest.mark.usefixtures("inline")
def test_a_corpus_before_that_is_damaged_costs_time_and_not_the_run(
    workspace: Workspace, docs: Path, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = ingest(workspace, "tiny", config(docs, model_folder))
    store = workspace.artifacts
    attempt = store.manifest(first.ref).attempt
    store.objects.put_bytes(f"{first.ref.key}/{attempt}/documents.parquet", b"damaged")
    (docs / "a.txt").write_text("The first document says something else.")
    second = ingest(workspace, "tiny", config(docs, model_folder))
    assert second.counts["num_documents"] == 2
    assert "all is parsed anew" in caplog.text


@pytest.mark.usefixtures("inline")
def test_a_run_that_was_killed_goes_on_with_the_shards_that_are_missing(
    workspace: Workspace, docs: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    process_shard = stage.process_shard

    def killed_at_second(partial: Any, shard: Any, *args: Any, **options: Any) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        process_shard(partial, shard, *args, **options)
        done.append(shard.key)

    wanted = config(docs, model_folder, shard_inputs=1)
    with monkeypatch.context() as patched:
        patched.setattr(stage, "process_shard", killed_at_second)
        with pytest.raises(KeyboardInterrupt):
            ingest(workspace, "tiny", wanted)
    assert workspace.artifacts.refs(kind="corpus") == []
    again: list[str] = []

    def counted(partial: Any, shard: Any, *args: Any, **options: Any) -> None:
        process_shard(partial, shard, *args, **options)
        again.append(shard.key)

    monkeypatch.setattr(stage, "process_shard", counted)
    result = ingest(workspace, "tiny", wanted)
    assert result.counts["num_documents"] == 2
    assert not set(done) & set(again)


@pytest.mark.usefixtures("inline")
def test_planned_and_prepared_elsewhere_it_is_the_same_corpus(
    workspace: Workspace, docs: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(docs, model_folder, shard_inputs=1)
    plain = ingest(workspace, "plain", wanted)
    plan = plan_ingest(workspace, "planned", wanted)
    assert not plan.is_done
    assert len(plan.shards) >= 2
    plan = stage.IngestPlan.model_validate_json(plan.model_dump_json())  # as it travels
    for index in range(len(plan.shards)):
        assert prepare_shard(workspace, plan, index) == 1
    elsewhere = replace(workspace)
    with monkeypatch.context() as patched:
        patched.setattr(stage, "scan_sources", None)  # not listed again
        patched.setattr(stage, "process_shard", None)  # nor parsed
        assert prepare_shard(elsewhere, plan, 0) == 1
        planned = finish_ingest(elsewhere, plan)
    assert (planned.ref, planned.ref.fingerprint) == (plan.ref, plain.ref.fingerprint)
    assert hashes(workspace, planned) == hashes(workspace, plain)
    again = plan_ingest(workspace, "planned", wanted)
    assert (again.is_done, again.shards) == (True, ())
    assert finish_ingest(workspace, again).reused


@pytest.mark.usefixtures("inline")
def test_shards_that_nobody_prepared_are_parsed_at_the_end(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    plan = plan_ingest(workspace, "planned", config(docs, model_folder, shard_inputs=1))
    prepare_shard(workspace, plan, 0)
    assert finish_ingest(workspace, plan).counts["num_documents"] == 2


@pytest.mark.usefixtures("inline")
def test_a_worker_that_would_parse_otherwise_is_refused(
    workspace: Workspace, docs: Path, model_folder: Path
) -> None:
    plan = plan_ingest(workspace, "planned", config(docs, model_folder))
    other = plan.model_copy(update={"processing": "0" * 64})
    with pytest.raises(ConfigError, match="would parse otherwise than was planned"):
        prepare_shard(workspace, other, 0)


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


def test_importing_the_stage_imports_nothing_heavy() -> None:
    heavy = (
        *("torch", "transformers", "prefect", "trafilatura", "tokenizers", "boto3", "rensa"),
        *("py3langid", "pypdfium2", "docx", "pptx", "openpyxl", "markdown_it", "lxml"),
    )
    code = f"import sys, pipeline_lib.corpus.stage; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
