"""The other machines of a training: wait for its plan, fetch what it names, run their ranks.

A machine joins a model that is being made: `model/name/fingerprint`, as node 0 logs it. Or it is
given what node 0 is given (`TrainingOrder`) and works the references out: that is how the same
command starts every machine of a cluster.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError, ModelNotFoundError, TrainingError
from pipeline_lib.models import resolve_model
from pipeline_lib.stage import StageResult, Workspace
from pipeline_lib.training.diagnosis import NodeReport
from pipeline_lib.training.launcher import run_node
from pipeline_lib.training.nodes import Node
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, TrainingPlan
from pipeline_lib.training.planning import Start, resolve_hardware
from pipeline_lib.training.presence import Presence
from pipeline_lib.training.sharing import Beat, JoinedTraining, SharedPlan, current_beat
from pipeline_lib.training.stage import finetune, trained_refs
from pipeline_lib.training.uploading import CheckpointUploader

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_SILENCE_SECONDS = 60.0


class TrainingOrder(BaseModel):
    """What to train: the same text for all machines of a cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of the pipeline."""
    config: FinetuneConfig
    dataset: ArtifactRef
    previous: ArtifactRef | None = None
    """The model that `config.continue_from` names."""


def take_part(ws: Workspace, order: TrainingOrder, node: Node, patience_seconds: float) -> None:
    """Train all stages of an order on one of its machines; node 0 owns the training.

    Args:
        ws: where artifacts are.
        order: what to train.
        node: which machine this is.
        patience_seconds: how long to wait for each stage to begin; they begin one after another.

    Raises:
        TrainingError: see `join_training` and `pipeline_lib.training.stage.finetune`.
    """
    if node.rank == 0:
        result: StageResult = finetune(ws, order.name, order.config, order.dataset, order.previous)
        logger.info("%s %s", result.ref, "was there already" if result.reused else "is made")
        return
    base = resolve_model(ws.settings, order.config.base_model, ws.progress)
    start = Start(base=base, previous=order.previous)
    for ref in trained_refs(order.name, order.config, order.dataset, start):
        join_training(ws, ref, node, patience_seconds)


def join_training(ws: Workspace, ref: ArtifactRef, node: Node, patience_seconds: float) -> None:
    """Run this machine's ranks of a training that another machine owns; returns when it is over.

    Args:
        ws: where artifacts are.
        ref: the model being made.
        node: which machine this is; its `run_id` is taken from the run.
        patience_seconds: how long to wait for the training to begin.

    Raises:
        TrainingError: nothing began, a rank failed here or elsewhere, or node 0 is gone.
        ModelNotFoundError: the base model cannot be had here, or is another one here.
        ConfigError: this machine has another kind of device than node 0, or too few.
    """
    if node.rank == 0:
        raise ConfigError(
            "Node 0 owns the training: it does not join it",
            hint="Give this machine a number from 1 to launch.num_nodes - 1 (--node-rank).",
        )
    partial = ws.artifacts.partial(ref)
    beat = _begun(ws, ref, partial, patience_seconds)
    if beat is None:
        logger.info("%s is made already: there is nothing to take part in", ref)
        return
    joined = JoinedTraining(partial, beat.run_id)
    ws.settings.scratch.mkdir(parents=True, exist_ok=True)
    with (
        Presence(partial, beat.run_id, node.rank) as presence,
        tempfile.TemporaryDirectory(prefix="training-", dir=ws.settings.scratch) as folder,
    ):
        run_folder = Path(folder)
        plan = _plan(ws, joined, joined.shared_plan(), run_folder)
        _check_place(plan, node)
        logger.info("Taking part in %s as node %d", ref, node.rank)
        own = Node(rank=node.rank, run_id=beat.run_id, local_address=node.local_address)
        uploader = CheckpointUploader(
            partial,
            run_folder / CHECKPOINTS_FOLDER,
            keep_last=plan.config.checkpoints.keep_last,
            keep_best_here=plan.schedule.select_best,
            num_nodes=plan.config.launch.num_nodes,
            is_owner=False,
        )
        with uploader:
            try:
                run_node(plan, own, uploader.on_event, _watch_node_0(partial, plan, beat))
            except TrainingError as error:
                presence.tell(NodeReport.of(node.rank, error, run_folder))
                raise


def _begun(
    ws: Workspace, ref: ArtifactRef, partial: PartialWork, patience_seconds: float
) -> Beat | None:
    """Wait for a run whose node 0 is alive; `None` when the model has been made meanwhile."""
    deadline = time.monotonic() + patience_seconds
    first: Beat | None = None
    while True:
        if ws.artifacts.find(ref) is not None:
            return None
        beat = current_beat(partial)
        if beat is not None and first is not None and beat.run_id == first.run_id:
            if beat.number != first.number:
                return beat
        else:
            first = beat
        if time.monotonic() > deadline:
            raise TrainingError(
                f"No training of {ref} began within {patience_seconds:.0f} s",
                hint="Start it on node 0 first, with launch.num_nodes above 1 and the same object "
                "store; or wait for longer.",
            )
        time.sleep(_LOOK_SECONDS)


def _plan(
    ws: Workspace, joined: JoinedTraining, shared: SharedPlan, run_folder: Path
) -> TrainingPlan:
    base = resolve_model(ws.settings, shared.base_model, ws.progress)
    if base.identity != shared.base_identity:
        raise ModelNotFoundError(
            f"{shared.base_model!r} is {base.identity} on this machine, but {shared.base_identity} "
            "on node 0",
            hint="All machines need the same files: clear the model cache, or copy the folder.",
        )
    previous = ws.artifacts.directory(shared.previous) if shared.previous else None
    return joined.fetch(shared, run_folder, base.path, previous)


def _check_place(plan: TrainingPlan, node: Node) -> None:
    if node.rank >= plan.config.launch.num_nodes:
        raise ConfigError(
            f"There is no node {node.rank}: the training has {plan.config.launch.num_nodes}",
            hint="Number the machines from 1; 0 is the one that owns the training.",
        )
    device, _ = resolve_hardware(plan.config)
    if device != plan.device:
        raise ConfigError(
            f"This machine trains on {device!r}, node 0 on {plan.device!r}",
            hint="All machines of a training need the same kind of device.",
        )


def _watch_node_0(partial: PartialWork, plan: TrainingPlan, beat: Beat) -> Callable[[], None]:
    """Something to call while waiting, that raises once node 0 has ended the run or is gone."""
    grace = plan.config.launch.grace_seconds
    looked_at = heard_at = time.monotonic()
    last: Beat | None = beat

    def watch() -> None:
        nonlocal looked_at, heard_at, last
        now = time.monotonic()
        if now - looked_at < _LOOK_SECONDS:
            return
        looked_at = now
        found = current_beat(partial)
        if found != last:
            last, heard_at = found, now
        is_over = found is None or found.run_id != beat.run_id
        if now - heard_at > (grace if is_over else _SILENCE_SECONDS):
            reason = "has ended the training" if is_over else "gives no sign of life any more"
            raise TrainingError(f"Node 0 {reason}", hint="Its log says why.")

    return watch
