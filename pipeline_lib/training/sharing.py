"""A training's plan and files in S3, for the other machines that take part in it.

Below the unfinished artifact's partial work:

    training/<run>/plan.json           the plan, its paths relative to folders every machine has
    training/<run>/files/…             files of examples
    training/<run>/nodes/…             of the other machines (see `presence`)
    training/current.json              names the run that is on, and is rewritten every few seconds

`current.json` is written last, so a run is complete or invisible; and since it changes while node 0
lives, a run that was killed is told from one that waits. A checkpoint to resume from is in the
store already, and fetched from where it lies.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.object_store import sha256_file
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.errors import ArtifactCorruptError
from pipeline_lib.models import ResolvedModel
from pipeline_lib.training.checkpoints import fetch_best_checkpoint, fetch_checkpoint
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, TrainingPlan
from pipeline_lib.training.presence import Beating, OtherNodes, run_root

_CURRENT = "training/current.json"
_RUN, _BASE, _PREVIOUS = "{run}", "{base}", "{previous}"
_RUN_ID_LENGTH = 12
_TRAINER_STATE = "trainer_state.json"


class SharedPlan(BaseModel):
    """A plan as another machine can read it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: dict[str, Any]
    """Of a `TrainingPlan`; paths begin with the name of a folder in braces."""
    base_model: str
    base_identity: str
    previous: ArtifactRef | None
    """The model that is trained on."""
    files: dict[str, str]
    """Path below the run folder to SHA-256."""
    resumed_step: int | None
    """Of the checkpoint that is resumed from."""


def _new_run_id() -> str:
    return uuid.uuid4().hex[:_RUN_ID_LENGTH]


class Beat(BaseModel):
    """The run that is on, and a number that grows while it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    number: int


@dataclass(frozen=True, kw_only=True)
class SharedTraining:
    """Where node 0 puts what the others of one run need, and what that refers to."""

    ref: ArtifactRef
    """The model being made: what the others join."""
    partial: PartialWork
    base: ResolvedModel
    previous: ArtifactRef | None = None
    previous_folder: Path | None = None
    """The local copy of `previous`."""
    run_id: str = field(default_factory=_new_run_id)

    @cached_property
    def others(self) -> OtherNodes:
        """The machines that have joined."""
        return OtherNodes(self.partial, self.run_id)

    @contextmanager
    def published(self, plan: TrainingPlan) -> Iterator[None]:
        """Let others join for as long as the block runs."""
        root = run_root(self.run_id)
        folders = {_RUN: plan.run_folder, _BASE: self.base.path, _PREVIOUS: self.previous_folder}
        encoded = _mapped(plan.model_dump(mode="json"), _encoder(folders))
        files = {
            path.relative_to(plan.run_folder).as_posix(): sha256_file(path)
            for path in plan.files.values()
        }
        for name in files:
            self.partial.put_file(f"{root}files/{name}", plan.run_folder / name)
        shared = SharedPlan(
            plan=encoded,
            base_model=self.base.name,
            base_identity=self.base.identity,
            previous=self.previous,
            files=files,
            resumed_step=_step_of(plan.resume_from) if plan.resume_from else None,
        )
        self.partial.put(f"{root}plan.json", shared.model_dump_json(indent=1).encode())
        try:
            with Beating(self._beat, "Other machines were not told that this one lives"):
                yield
        finally:
            self.partial.delete(_CURRENT)

    def _beat(self, number: int) -> None:
        beat = Beat(run_id=self.run_id, number=number)
        self.partial.put(_CURRENT, beat.model_dump_json().encode())


class JoinedTraining:
    """The other machines' view of one run.

    Args:
        partial: work of the unfinished artifact.
        run_id: which run.
    """

    def __init__(self, partial: PartialWork, run_id: str) -> None:
        self._partial = partial
        self._root = run_root(run_id)

    def shared_plan(self) -> SharedPlan:
        """The plan that node 0 published.

        Raises:
            ArtifactCorruptError: it is gone.
        """
        data = self._partial.get(f"{self._root}plan.json")
        if data is None:
            raise ArtifactCorruptError(f"{self._root}plan.json vanished while it was read")
        return SharedPlan.model_validate_json(data)

    def fetch(
        self, shared: SharedPlan, run_folder: Path, base: Path, previous: Path | None
    ) -> TrainingPlan:
        """Bring the run's files here, and make the plan one of this machine.

        Raises:
            ArtifactCorruptError: a file is missing, or is not what was published.
        """
        for name, sha256 in shared.files.items():
            local = run_folder / name
            if not self._partial.get_file(f"{self._root}files/{name}", local):
                raise ArtifactCorruptError(f"{self._root}files/{name} is missing")
            if sha256_file(local) != sha256:
                raise ArtifactCorruptError(f"{self._root}files/{name} is not what was published")
        folders = {_RUN: run_folder, _BASE: base, _PREVIOUS: previous}
        plan = TrainingPlan.model_validate(_mapped(shared.plan, _decoder(folders)))
        if plan.resume_from is not None and not (
            shared.resumed_step is not None
            and fetch_checkpoint(self._partial, shared.resumed_step, plan.resume_from)
        ):
            raise ArtifactCorruptError(
                f"The checkpoint of step {shared.resumed_step} is not whole any more"
            )
        if plan.resume_from is not None and plan.schedule.select_best:
            fetch_best_checkpoint(self._partial, run_folder / CHECKPOINTS_FOLDER)
        return plan


def current_beat(partial: PartialWork) -> Beat | None:
    """The run that is on, or was when its node 0 was killed; `None`: there is none."""
    data = partial.get(_CURRENT)
    return None if data is None else Beat.model_validate(json.loads(data))


def _encoder(folders: Mapping[str, Path | None]) -> Callable[[str], str]:
    def encode(text: str) -> str:
        for mark, folder in folders.items():
            if folder is not None and (text == str(folder) or text.startswith(f"{folder}/")):
                return mark + text.removeprefix(str(folder))
        return text

    return encode


def _decoder(folders: Mapping[str, Path | None]) -> Callable[[str], str]:
    def decode(text: str) -> str:
        for mark, folder in folders.items():
            if folder is not None and (text == mark or text.startswith(f"{mark}/")):
                return str(folder) + text.removeprefix(mark)
        return text

    return decode


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(each, change) for name, each in value.items()}
    if isinstance(value, list):
        return [_mapped(each, change) for each in value]
    return value


def _step_of(checkpoint: Path) -> int:
    state = json.loads((checkpoint / _TRAINER_STATE).read_text())
    return int(state["global_step"])
