"""Ingesting what was ingested before, was interrupted, or is prepared elsewhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import ChunkConfig
from pipeline_lib.corpus import shards, stage
from pipeline_lib.corpus.sandbox import TimedOut
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.corpus.stage import finish_ingest, ingest, plan_ingest, prepare_shard
from pipeline_lib.errors import ConfigError
from pipeline_lib.stage import Workspace
from tests.corpus.made_ingests import config, hashes, parsed, rows


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
