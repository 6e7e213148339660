"""The artifact store against a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployments.stack.s3 import RcloneServer
from pipeline_lib.artifacts.aliases import Aliases
from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
from pipeline_lib.artifacts.object_store import MULTIPART_BYTES, ObjectStore, sha256_file
from pipeline_lib.artifacts.store import ArtifactStore
from pipeline_lib.errors import (
    AliasConflictError,
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ConfigError,
    ObjectNotFoundError,
    StoreAccessError,
    StoreUnavailableError,
)
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace


def ref(mark: str, kind: Any = "corpus", name: str = "demo") -> ArtifactRef:
    return ArtifactRef(kind=kind, name=name, fingerprint=mark * 32)


def publish(store: ArtifactStore, folder: Path, to: ArtifactRef, **files: bytes) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return store.publish(folder, record(to))


def record(to: ArtifactRef, **extra: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "ref": to,
        "stage": "test",
        "stage_version": 1,
        "config": {},
        "inputs": {},
        "code_version": "1",
        "libraries": {},
        "started_at": now,
        "finished_at": now,
        **extra,
    }


def test_what_is_published_comes_back_byte_for_byte(workspace: Workspace, tmp_path: Path) -> None:
    store, to = workspace.artifacts, ref("a")
    publish(store, tmp_path / "out", to, one=b"1", two=b"")
    folder = store.directory(to)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"one": b"1", "two": b""}


def test_a_file_larger_than_one_part_survives_multipart(
    workspace: Workspace, tmp_path: Path
) -> None:
    big = os.urandom(1024) * (2 * MULTIPART_BYTES // 1024 + 1)
    publish(workspace.artifacts, tmp_path / "out", ref("a"), big=big)
    assert (workspace.artifacts.directory(ref("a")) / "big").read_bytes() == big


def test_an_artifact_without_a_manifest_does_not_exist(workspace: Workspace) -> None:
    store = workspace.artifacts
    store.objects.put_bytes(f"{ref('a').key}/0123456789ab/data", b"half")
    assert store.find(ref("a")) is None
    assert store.refs() == []
    with pytest.raises(ArtifactNotFoundError, match="no complete artifact"):
        store.directory(ref("a"))


def test_a_builder_killed_between_data_and_manifest_leaves_nothing_readable(
    workspace: Workspace, tmp_path: Path
) -> None:
    """SIGKILL lands in a real process right before the manifest; the next build then succeeds."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "data").write_bytes(b"x" * 1000)
    script = f"""
import os, signal
from pathlib import Path
from pipeline_lib.artifacts import object_store
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.stage import Workspace
from tests_record import record
put = object_store.ObjectStore.put_bytes
def die(self, key, *args, **kwargs):
    if key.endswith("manifest.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, key, *args, **kwargs)
object_store.ObjectStore.put_bytes = die
ref = ArtifactRef.parse("{ref("a")}")
Workspace.open().artifacts.publish(Path({str(folder)!r}), record(ref))
"""
    helper = tmp_path / "tests_record.py"
    helper.write_text(
        "from datetime import UTC, datetime\n"
        "def record(ref):\n"
        "    now = datetime.now(UTC)\n"
        "    return dict(ref=ref, stage='t', stage_version=1, config={}, inputs={},\n"
        "                code_version='1', libraries={}, started_at=now, finished_at=now)\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        timeout=60,
        check=False,
    )
    store = workspace.artifacts
    assert done.returncode == -signal.SIGKILL
    assert [info.key for info in store.objects.scan(ref("a").key)] != []
    assert store.find(ref("a")) is None
    store.publish(folder, record(ref("a")))
    assert (store.directory(ref("a")) / "data").read_bytes() == b"x" * 1000


@pytest.mark.parametrize("damage", [b"another", b"EVEN"], ids=["other size", "same size"])
def test_a_corrupted_object_is_refused(workspace: Workspace, tmp_path: Path, damage: bytes) -> None:
    store = workspace.artifacts
    manifest = publish(store, tmp_path / "out", ref("a"), data=b"good")
    store.objects.put_bytes(f"{ref('a').key}/{manifest.attempt}/data", damage)
    with pytest.raises(ArtifactCorruptError, match="not what its manifest says"):
        store.directory(ref("a"))


def test_a_damaged_local_copy_is_fetched_again(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.artifacts
    publish(store, tmp_path / "out", ref("a"), data=b"good")
    local = store.directory(ref("a")) / "data"
    local.write_bytes(b"evil")
    assert (store.directory(ref("a")) / "data").read_bytes() == b"good"


def test_one_file_is_fetched_without_the_others(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.artifacts
    manifest = publish(store, tmp_path / "a", ref("a"), small=b"1", large=b"22")
    path = store.file(manifest, "small")
    assert path is not None
    assert path.read_bytes() == b"1"
    assert [each.name for each in path.parent.iterdir()] == ["small"]
    assert store.file(manifest, "none") is None
    assert store.directory(ref("a")) == path.parent
    assert sorted(each.name for each in path.parent.iterdir()) == ["large", "small"]


def test_a_missing_data_file_is_named(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.artifacts
    manifest = publish(store, tmp_path / "out", ref("a"), data=b"good")
    store.objects.delete([f"{ref('a').key}/{manifest.attempt}/data"])
    with pytest.raises(ArtifactNotFoundError, match="data is missing although"):
        store.directory(ref("a"))


def test_a_broken_manifest_is_an_error_not_an_absence(workspace: Workspace) -> None:
    store = workspace.artifacts
    store.objects.put_bytes(f"{ref('a').key}/manifest.json", b'{"ref": 1}')
    with pytest.raises(ArtifactCorruptError, match="cannot be read"):
        store.find(ref("a"))


def test_concurrent_builders_of_one_artifact_leave_one_whole_artifact(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Eight builders with different bytes: the manifest in the end matches the data it names."""
    errors: list[BaseException] = []

    def build(number: int) -> None:
        try:
            store = ArtifactStore(workspace.settings)
            publish(store, tmp_path / f"out{number}", ref("a"), data=bytes([number]) * 50_000)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=build, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    data = (workspace.artifacts.directory(ref("a")) / "data").read_bytes()
    assert len(data) == 50_000
    assert len(set(data)) == 1


def test_wrong_credentials_say_so_without_showing_them(settings: Settings) -> None:
    wrong = settings.model_copy(
        update={"s3_secret_access_key": type(settings.s3_secret_access_key)("not-the-secret")}
    )
    with pytest.raises(StoreAccessError, match="RAFTLINE_S3_SECRET_ACCESS_KEY") as caught:
        ObjectStore(wrong).put_bytes("x", b"")
    assert "not-the-secret" not in str(caught.value)


def test_a_server_that_is_gone_is_transient(tmp_path: Path, settings: Settings) -> None:
    server = RcloneServer(tmp_path / "data").start()
    here = settings.model_copy(update={"s3_endpoint_url": server.endpoint_url})
    server.kill()
    with pytest.raises(StoreUnavailableError) as caught:
        ObjectStore(here).get_bytes("x")
    assert caught.value.is_transient


def test_a_missing_object_is_not_found(workspace: Workspace, tmp_path: Path) -> None:
    objects = workspace.artifacts.objects
    with pytest.raises(ObjectNotFoundError):
        objects.get_bytes("nothing/here")
    with pytest.raises(ObjectNotFoundError):
        objects.get_file("nothing/here", tmp_path / "f")
    assert list(tmp_path.iterdir()) == []
    assert not objects.exists("nothing/here")


def test_more_than_a_thousand_objects_are_listed_and_deleted(
    workspace: Workspace,
) -> None:
    """More than one page of a listing and one batch of deletes (both end at 1,000)."""
    objects = workspace.artifacts.objects
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: objects.put_bytes(f"many/{n:04}", b""), range(1005)))
    keys = [info.key for info in objects.scan("many/")]
    assert keys == [f"many/{number:04}" for number in range(1005)]
    objects.delete(keys)
    assert list(objects.scan("many/")) == []


def test_partial_work_is_resumable_and_belongs_to_one_artifact(
    workspace: Workspace, tmp_path: Path
) -> None:
    mine, other = workspace.artifacts.partial(ref("a")), workspace.artifacts.partial(ref("b"))
    mine.put("answers/1", b"one")
    (tmp_path / "f").write_bytes(b"file")
    mine.put_file("answers/2", tmp_path / "f")
    assert mine.keys("answers/") == ["answers/1", "answers/2"]
    assert other.get("answers/1") is None
    assert not other.get_file("answers/2", tmp_path / "g")
    assert mine.get_file("answers/2", tmp_path / "g")
    mine.delete()
    assert mine.keys() == []


class TestAliases:
    def test_an_alias_moves_and_remembers(self, workspace: Workspace, tmp_path: Path) -> None:
        store = workspace.artifacts
        for mark in "ab":
            publish(store, tmp_path / mark, ref(mark), data=mark.encode())
        assert store.alias("corpus", "demo", "champion") is None
        assert store.set_alias("champion", ref("a"), reason="first") is None
        assert store.set_alias("champion", ref("b"), expected=ref("a"), reason="better") == ref("a")
        assert store.resolve("corpus/demo@champion") == ref("b")
        moves = store.aliases.history("corpus", "demo", "champion")
        assert [(m.ref, m.reason) for m in moves] == [(ref("b"), "better"), (ref("a"), "first")]

    def test_a_move_from_an_outdated_view_is_refused(
        self, workspace: Workspace, tmp_path: Path
    ) -> None:
        store = workspace.artifacts
        for mark in "ab":
            publish(store, tmp_path / mark, ref(mark), data=mark.encode())
        store.set_alias("champion", ref("a"))
        with pytest.raises(AliasConflictError, match="expected at nothing"):
            store.set_alias("champion", ref("b"), expected=None)
        assert store.alias("corpus", "demo", "champion") == ref("a")

    def test_of_many_movers_with_one_view_exactly_one_wins(
        self, workspace: Workspace, tmp_path: Path
    ) -> None:
        marks = "0123456789abcdef"[:6]
        for mark in marks:
            publish(workspace.artifacts, tmp_path / mark, ref(mark), data=mark.encode())
        outcomes: list[str] = []

        def move(mark: str) -> None:
            store = ArtifactStore(workspace.settings)
            try:
                store.set_alias("champion", ref(mark), expected=None)
                outcomes.append(mark)
            except AliasConflictError:
                outcomes.append("lost")

        threads = [threading.Thread(target=move, args=(m,)) for m in marks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [o for o in outcomes if o != "lost"]
        assert len(outcomes) == len(marks)
        assert [workspace.artifacts.alias("corpus", "demo", "champion")] == [ref(winners[0])]
        assert len(winners) == 1

    def test_an_alias_cannot_point_to_an_incomplete_artifact(self, workspace: Workspace) -> None:
        with pytest.raises(ArtifactNotFoundError):
            workspace.artifacts.set_alias("champion", ref("a"))

    def test_an_alias_name_is_checked(self, workspace: Workspace) -> None:
        with pytest.raises(ConfigError, match="not an alias name"):
            workspace.artifacts.aliases.set("No Spaces", ref("a"), expected=Aliases.ANY)


class TestResolve:
    def test_a_unique_start_of_a_fingerprint_is_enough(
        self, workspace: Workspace, tmp_path: Path
    ) -> None:
        publish(workspace.artifacts, tmp_path / "out", ref("a"), data=b"")
        assert workspace.artifacts.resolve("corpus/demo/aaaa") == ref("a")
        with pytest.raises(ArtifactNotFoundError, match="0 artifacts match"):
            workspace.artifacts.resolve("corpus/demo/bbbb")

    @pytest.mark.parametrize("text", ["", "corpus", "corpora/demo@latest", "corpus/demo", "x/y/z"])
    def test_what_is_no_reference_is_refused(self, workspace: Workspace, text: str) -> None:
        with pytest.raises(ConfigError, match="not an artifact reference"):
            workspace.artifacts.resolve(text)

    def test_an_unknown_alias_names_the_known_ones(
        self, workspace: Workspace, tmp_path: Path
    ) -> None:
        publish(workspace.artifacts, tmp_path / "out", ref("a"), data=b"")
        workspace.artifacts.set_alias("latest", ref("a"))
        with pytest.raises(ArtifactNotFoundError, match=r"aliases: latest"):
            workspace.artifacts.resolve("corpus/demo@champion")


def test_lineage_runs_up_and_down(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.artifacts
    publish(store, tmp_path / "corpus", ref("a"), data=b"")
    (tmp_path / "index").mkdir()
    inputs = {"corpus": ref("a").key, "embedding_model": "sha256:1234"}
    store.publish(tmp_path / "index", record(ref("b", "index"), inputs=inputs))
    assert store.parents(ref("b", "index")) == {"corpus": ref("a")}
    assert store.children(ref("a")) == [ref("b", "index")]


def test_sha256_of_a_file_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == expected
