"""Checkpoints in S3: complete or invisible, verified, kept by policy, stored in the background."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import StoreUnavailableError, TrainingError
from pipeline_lib.training.checkpoints import (
    best_step,
    complete_steps,
    fetch_best_checkpoint,
    fetch_checkpoint,
    fetch_latest_checkpoint,
    upload_checkpoint,
    upload_part,
)
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, TrainingPlan
from pipeline_lib.training.uploading import CheckpointUploader
from pipeline_lib.training.writing import BackgroundWriter

from .conftest import PlanFactory, random_examples
from .warm_ranks import Ranks

MakeFolder = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> MakeFolder:
    """A checkpoint folder, as the ranks leave it: `made(4)`."""

    def make(step: int, **files: str) -> Path:
        folder = tmp_path / CHECKPOINTS_FOLDER / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for name, content in (files or {"state": f"state of {step}"}).items():
            (folder / name).write_text(content)
        return folder

    return make


def test_the_last_ones_and_the_best_are_kept(
    partial: PartialWork, made: MakeFolder, tmp_path: Path
) -> None:
    for step in (2, 4, 6, 8, 10):
        upload_checkpoint(partial, made(step), step, is_best=step in (2, 4), keep_last=2)
    assert complete_steps(partial) == [4, 8, 10]
    assert best_step(partial) == 4
    fetch_best_checkpoint(partial, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "checkpoint-4" / "state").read_text() == "state of 4"
    assert {key.split("/")[1] for key in partial.keys("checkpoints/")} == {
        "00000004",
        "00000008",
        "00000010",
    }


def test_a_checkpoint_without_its_list_is_invisible(
    partial: PartialWork, made: MakeFolder, tmp_path: Path
) -> None:
    upload_checkpoint(partial, made(2), 2)
    upload_part(partial, made(4), 4, node=0)
    assert complete_steps(partial) == [2]
    fetched = fetch_latest_checkpoint(partial, tmp_path / "fetched")
    assert fetched is not None
    assert fetched[1] == 2
    for step in (6, 8):
        upload_checkpoint(partial, made(step), step, keep_last=1)
    assert not partial.keys("checkpoints/00000004")  # its remains are gone too


@pytest.mark.parametrize("damage", ["content", "missing", "format"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    partial: PartialWork, made: MakeFolder, tmp_path: Path, damage: str
) -> None:
    for step in (4, 6):
        upload_checkpoint(partial, made(step), step)
    (key,) = (key for key in partial.keys("checkpoints/00000006/") if "/state." in key)
    if damage == "content":
        partial.put(key, b"something else")
    elif damage == "missing":
        partial.delete(key)
    else:
        partial.put("checkpoints/00000006/complete.json", b'{"global_step6/a.pt": "0f"}')
    fetched = fetch_latest_checkpoint(partial, tmp_path / "fetched")
    assert fetched is not None
    assert fetched[1] == 4
    assert (fetched[0] / "state").read_text() == "state of 4"


def test_two_runs_that_store_the_same_step_do_not_spoil_each_other(
    partial: PartialWork, made: MakeFolder, tmp_path: Path
) -> None:
    """The one that ends its upload last is read, whole."""
    one, other = made(2, a="one", b="one"), made(3, a="other", b="other")
    upload_part(partial, one, 2, node=0)
    upload_checkpoint(partial, other, 2)
    assert fetch_checkpoint(partial, 2, tmp_path / "fetched")
    assert {path.read_text() for path in (tmp_path / "fetched").iterdir()} == {"other"}


def test_a_checkpoint_of_two_machines_is_complete_with_both_parts(
    partial: PartialWork, made: MakeFolder, tmp_path: Path
) -> None:
    one, other = made(2, first="of node 0"), made(3, second="of node 1")
    with CheckpointUploader(partial, tmp_path / CHECKPOINTS_FOLDER, keep_last=2, num_nodes=2) as up:
        up.on_event(event(2, folder=one.name))
        with CheckpointUploader(
            partial, tmp_path / CHECKPOINTS_FOLDER, keep_last=2, num_nodes=2, is_owner=False
        ) as elsewhere:
            elsewhere.on_event(event(2, folder=other.name, node=1))
    assert fetch_checkpoint(partial, 2, tmp_path / "fetched")
    names = {path.name for path in (tmp_path / "fetched").iterdir()}
    assert names == {"first", "second"}


class HeldStore:
    """Partial work in memory whose first upload waits until it is let go, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        self._failure = failure

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def put_file(self, key: str, path: Path) -> None:
        self.has_begun.set()
        assert self.may_go_on.wait(10)
        if self._failure is not None:
            raise self._failure
        self.objects[key] = path.read_bytes()

    def get(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def delete(self, prefix: str = "") -> None:
        for key in self.keys(prefix):
            del self.objects[key]


def event(
    step: int, *, is_best: bool = False, folder: str | None = None, node: int = 0
) -> dict[str, Any]:
    return {
        "step": step,
        "folder": folder or f"checkpoint-{step}",
        "is_best": is_best,
        "node": node,
    }


def test_training_does_not_wait_for_a_slow_store(made: MakeFolder, tmp_path: Path) -> None:
    """While step 2 is stored, 4 and 8 are superseded; the best one and the newest are not."""
    store: Any = HeldStore()
    folders = [made(step) for step in (2, 4, 6, 8, 10)]
    with CheckpointUploader(store, tmp_path / CHECKPOINTS_FOLDER, keep_last=9) as uploader:
        uploader.on_event(event(2))
        assert store.has_begun.wait(10)
        for step in (4, 6, 8, 10):
            uploader.on_event(event(step, is_best=step == 6))
        store.may_go_on.set()
    assert complete_steps(store) == [2, 6, 10]
    assert not any(folder.exists() for folder in folders)


def test_what_an_upload_failed_with_is_raised_at_the_next_event(
    made: MakeFolder, tmp_path: Path
) -> None:
    store: Any = HeldStore(StoreUnavailableError("no S3"))
    store.may_go_on.set()
    made(2)
    with CheckpointUploader(store, tmp_path / CHECKPOINTS_FOLDER, keep_last=2) as uploader:
        uploader.on_event(event(2))
        uploader._thread.join()
        with pytest.raises(StoreUnavailableError, match="no S3"):
            uploader.on_event({"event": "step", "step": 3})


def test_the_last_upload_is_waited_for_when_training_fails(
    made: MakeFolder, tmp_path: Path
) -> None:
    store: Any = HeldStore()
    store.may_go_on.set()
    made(2)

    def train_and_fail() -> None:
        with CheckpointUploader(store, tmp_path / CHECKPOINTS_FOLDER, keep_last=2) as uploader:
            uploader.on_event(event(2))
            raise TrainingError("a rank died")

    with pytest.raises(TrainingError, match="a rank died"):
        train_and_fail()
    assert complete_steps(store) == [2]


def test_the_best_one_stays_for_the_ranks_to_go_back_to(made: MakeFolder, tmp_path: Path) -> None:
    store: Any = HeldStore()
    store.may_go_on.set()
    folders = {step: made(step) for step in (2, 4, 6)}
    folder = tmp_path / CHECKPOINTS_FOLDER
    with CheckpointUploader(store, folder, keep_last=1, keep_best_here=True) as uploader:
        for step in (2, 4, 6):
            uploader.on_event(event(step, is_best=step < 6))
    assert [step for step, path in folders.items() if path.exists()] == [4]


def test_a_writer_works_beside_and_brings_back_what_went_wrong() -> None:
    writer, may_end = BackgroundWriter(), threading.Event()

    def fail() -> None:
        may_end.wait(10)
        raise OSError(28, "No space left on device")

    writer.start(fail)
    writer.check()  # still at it
    may_end.set()
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    writer.wait()  # once is enough


@pytest.mark.slow
def test_a_run_killed_goes_on_from_s3(make_plan: PlanFactory, partial: PartialWork) -> None:
    """With real ranks: SIGKILL to all of them once a checkpoint is stored."""
    sections: dict[str, Any] = {
        "supervised": {"num_epochs": 20.0},
        "checkpoints": {"every_steps": 2},
    }
    killed = make_plan("killed", random_examples(24), **sections)
    ranks = train(killed, partial, lambda ranks: ranks.kill() if complete_steps(partial) else None)
    assert set(ranks.wait()) == {-signal.SIGKILL}
    last = complete_steps(partial)[-1]

    fetched = fetch_latest_checkpoint(partial, killed.run_folder / "fetched")
    assert fetched is not None
    sections["supervised"] = {"max_steps": last + 3}
    resumed = make_plan("resumed", random_examples(24), resume_from=fetched[0], **sections)
    ranks = train(resumed, partial)
    assert set(ranks.wait()) == {0}, ranks.log()
    steps = [each["step"] for each in ranks.events if each["event"] == "step"]
    assert steps == [last + 1, last + 2, last + 3]
    assert complete_steps(partial)[-1] == last + 3
    assert not list((resumed.run_folder / CHECKPOINTS_FOLDER).iterdir())


def train(
    plan: TrainingPlan, partial: PartialWork, after_event: Callable[[Ranks], None] = lambda _: None
) -> Ranks:
    """Train with uploads, as the stage does, until the ranks have ended."""
    folder = plan.run_folder / CHECKPOINTS_FOLDER
    with CheckpointUploader(partial, folder, keep_last=2) as uploader, Ranks(plan) as ranks:
        for each in ranks.follow():
            uploader.on_event(each)
            after_event(ranks)
    return ranks
