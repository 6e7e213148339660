"""Local mode: one process at a time, many threads, nothing lost, nothing left locked."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from qdrant_client import models

from pipeline_lib.errors import VectorStoreBusyError, VectorStoreError
from pipeline_lib.retrieval.digests import PointDigests
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.settings import Settings

HOLD = """
    import sys
    from pathlib import Path
    from pipeline_lib.retrieval.store import VectorStore
    from pipeline_lib.settings import Settings

    with VectorStore(Settings(home=Path(sys.argv[1]), qdrant_url=None), "indexing 'other'"):
        print("held", flush=True)
        sys.stdin.readline()
"""
HOLD_BARE = """
    import sys
    from qdrant_client import QdrantClient

    client = QdrantClient(path=sys.argv[1] + "/qdrant")
    print("held", flush=True)
    sys.stdin.readline()
    client.close()
"""


@contextmanager
def other_process(script: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate("\n", timeout=30)


def points(count: int) -> list[models.PointStruct]:
    return [
        models.PointStruct(
            id=str(uuid.uuid4()),
            vector={"dense": [1.0, float(n)], "bm25": models.SparseVector(indices=[n], values=[1])},
            payload={"digest": str(n)},
        )
        for n in range(count)
    ]


def test_points_written_by_threads_at_once_are_all_there_after_reopening(local_settings: Settings):
    written = [points(10) for _ in range(8)]
    with VectorStore(local_settings, "set up") as store:
        store.create("demo", 2)

    def write(batch: list[models.PointStruct]) -> None:
        with VectorStore(local_settings, "write") as own:
            for point in batch:
                own.upsert("demo", [point])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, written))
    with VectorStore(local_settings, "read") as store:
        found = store.digests("demo")
    expected = PointDigests.of((p.id, p.payload["digest"]) for batch in written for p in batch)
    assert len(found) == 80
    assert found.sha256() == expected.sha256()


def test_nested_blocks_and_threads_started_inside_one_share_the_folder(local_settings: Settings):
    seen: list[bool] = []

    def look() -> None:
        with VectorStore(local_settings, "third") as third:
            seen.append(third.exists("demo"))

    with VectorStore(local_settings, "first") as first:
        first.create("demo", 2)
        with VectorStore(local_settings, "second") as second:
            assert second.exists("demo")
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert first.exists("demo")
    assert seen == [True]


def test_leaving_frees_the_folder_for_another_process(local_settings: Settings):
    with VectorStore(local_settings, "first"):
        pass
    with other_process(HOLD, local_settings.home):
        pass


def test_an_error_inside_the_block_frees_the_folder_too(local_settings: Settings):
    with pytest.raises(ZeroDivisionError), VectorStore(local_settings, "first"):
        raise ZeroDivisionError
    with other_process(HOLD, local_settings.home):
        pass


def test_a_folder_held_too_long_is_busy_and_the_message_names_holder_and_setting(
    local_settings: Settings, recorded_progress
):
    store = VectorStore(local_settings, "searching index/demo", recorded_progress)
    with other_process(HOLD, local_settings.home) as holder:
        with pytest.raises(VectorStoreBusyError) as caught, store:
            pass
        [note] = recorded_progress.notes
        for text in (caught.value.message, note):
            assert "searching index/demo" in text
            assert f"held by process {holder.pid} (indexing 'other')" in text
    assert caught.value.is_transient
    assert "RAFTLINE_QDRANT_URL" in str(caught.value)


def test_a_waiting_process_goes_on_when_the_folder_becomes_free(local_settings: Settings):
    patient = local_settings.model_copy(update={"qdrant_lock_timeout_seconds": 30.0})
    with other_process(HOLD, patient.home) as holder:
        threading.Timer(0.3, lambda: (holder.stdin.write("\n"), holder.stdin.flush())).start()
        with VectorStore(patient, "searching") as store:
            assert not store.exists("demo")


def test_a_killed_holder_leaves_nothing_locked(local_settings: Settings):
    with other_process(HOLD, local_settings.home) as holder:
        holder.kill()
        holder.wait()
        with VectorStore(local_settings, "searching") as store:
            assert not store.exists("demo")


# The client gives up inside its constructor and leaves its lock file to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed file.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_client_that_does_not_know_our_lock_counts_as_busy(local_settings: Settings):
    with (
        other_process(HOLD_BARE, local_settings.home),
        pytest.raises(VectorStoreBusyError, match="held by another program"),
        VectorStore(local_settings, "searching"),
    ):
        pass


def test_a_damaged_folder_is_an_error_that_says_how_to_recover(local_settings: Settings):
    local_settings.qdrant_path.mkdir(parents=True)
    (local_settings.qdrant_path / "meta.json").write_text("{")
    for _ in range(2):  # and it is not left locked
        with (
            pytest.raises(VectorStoreError, match="cannot be opened") as caught,
            VectorStore(local_settings, "searching"),
        ):
            pass
        assert not caught.value.is_transient
        assert "run the index stage again" in str(caught.value)


def test_a_missing_collection_is_an_error_that_names_it(local_settings: Settings):
    with (
        VectorStore(local_settings, "searching") as store,
        pytest.raises(VectorStoreError, match="list the points of nothing"),
    ):
        store.digests("nothing")


def test_a_store_outside_its_block_is_a_programming_error(local_settings: Settings):
    with pytest.raises(RuntimeError, match="outside its with block"):
        VectorStore(local_settings, "searching").exists("demo")
