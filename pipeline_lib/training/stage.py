"""The stage `finetune`: a dataset and a base model in, a fine-tuned model out."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.models import resolve_model
from pipeline_lib.progress import phase
from pipeline_lib.raft.rendering import FORMAT_VERSION
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage, stage_ref
from pipeline_lib.training.card import CardFacts, write_model_card
from pipeline_lib.training.export import (
    export_model,
)
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.monitor import TrainingMonitor
from pipeline_lib.training.objectives import objective_named
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, EXPORT_FOLDER
from pipeline_lib.training.planning import Sources, Start, make_plan
from pipeline_lib.training.replay import replay_identity
from pipeline_lib.training.sharing import SharedTraining
from pipeline_lib.training.uploading import CheckpointUploader

logger = logging.getLogger(__name__)

FINETUNE_STAGE_VERSION = 4


def finetune(
    ws: Workspace,
    name: str,
    config: FinetuneConfig,
    dataset: ArtifactRef,
    previous: ArtifactRef | None = None,
    on_stage: Callable[[StageResult], None] = lambda _result: None,
) -> StageResult:
    """Train a base model on a dataset, through all `config.stages`.

    Each stage makes an artifact of its own and goes on from the one before; the last bears `name`,
    the others `<name>-<stage>`. Checkpoints go to S3 while training runs; the same call after a
    crash or a kill goes on from the last one. The calling process owns the training processes: none
    outlives it.

    Args:
        ws: where artifacts are.
        name: of the pipeline.
        config: what to do.
        dataset: what to learn.
        previous: the model that `config.continue_from` names.
        on_stage: told of every stage's model as soon as it is there.

    Returns:
        The last stage's model.

    Raises:
        ModelNotFoundError: the base model cannot be had.
        ConfigError: the machine has fewer GPUs than ranks are asked for, or batches do not divide.
        InputError: the dataset lacks what a stage learns from, or no training row fits into
            `max_seq_len`.
        TrainingError: a rank failed; the message ends with its log.
    """
    base = resolve_model(ws.settings, config.base_model, ws.progress)
    stages = _stages(name, config)
    for place, (own, stage_config) in enumerate(stages):
        start = Start(base=base, previous=previous)
        later = [after for _, after in stages[place + 1 :]]
        result = train_stage(ws, own, stage_config, dataset, start, later)
        on_stage(result)
        previous = result.ref
    return result


def _stages(name: str, config: FinetuneConfig) -> list[tuple[str, FinetuneConfig]]:
    """Name and configuration of each stage, in order."""
    last = config.stages[-1]
    return [
        (
            name if objective == last else intermediate_name(name, objective),
            config.for_stage(objective),
        )
        for objective in config.stages
    ]


def intermediate_name(name: str, objective: str) -> str:
    """What the model of a stage is called that is not the last of its training."""
    return f"{name}-{objective}"


def trained_refs(
    name: str, config: FinetuneConfig, dataset: ArtifactRef, start: Start
) -> list[ArtifactRef]:
    """What the artifacts of `finetune` will be called, known before the work."""
    refs: list[ArtifactRef] = []
    for own, stage_config in _stages(name, config):
        ref = stage_ref(
            kind="model",
            name=own,
            stage="finetune",
            stage_version=FINETUNE_STAGE_VERSION,
            config=stage_config,
            inputs=_inputs(dataset, start, stage_config),
            seed=config.seed,
        )
        refs.append(ref)
        start = Start(base=start.base, previous=ref)
    return refs


def _inputs(
    dataset: ArtifactRef, start: Start, config: FinetuneConfig
) -> dict[str, ArtifactRef | str]:
    inputs: dict[str, ArtifactRef | str] = {
        "dataset": dataset,
        "base_model": start.base.identity,
        "prompt_format": str(FORMAT_VERSION),
    }
    if start.previous is not None:
        inputs["previous"] = start.previous
    if config.stages[0] == "dapt" and config.pretraining.replay_path is not None:
        inputs["general_text"] = replay_identity(Path(config.pretraining.replay_path).expanduser())
    return inputs


def train_stage(
    ws: Workspace,
    name: str,
    config: FinetuneConfig,
    dataset: ArtifactRef,
    start: Start,
    later: Iterable[FinetuneConfig] = (),
) -> StageResult:
    """Train towards one objective; see `finetune`.

    What the stages of `later` would miss in the dataset is said before this one trains.
    """
    return run_stage(
        ws,
        kind="model",
        name=name,
        stage="finetune",
        stage_version=FINETUNE_STAGE_VERSION,
        config=config,
        inputs=_inputs(dataset, start, config),
        seed=config.seed,
        build=lambda draft: _build(ws, draft, config, dataset, start, later),
    )


def _build(
    ws: Workspace,
    draft: ArtifactDraft,
    config: FinetuneConfig,
    dataset: ArtifactRef,
    start: Start,
    later: Iterable[FinetuneConfig],
) -> None:
    with tempfile.TemporaryDirectory(prefix="training-", dir=ws.settings.scratch) as folder:
        run_folder = Path(folder)
        sources = Sources(
            base=start.base,
            # Fetched and hashed here, once.
            dataset_folder=ws.artifacts.directory(dataset),
            previous_folder=ws.artifacts.directory(start.previous) if start.previous else None,
        )
        for after in later:
            objective_named(after.stages[0]).check(after, sources.dataset_folder)
        plan = make_plan(ws, draft, config, sources, run_folder)
        shared = SharedTraining(
            ref=draft.ref,
            partial=draft.partial,
            base=start.base,
            previous=start.previous,
            previous_folder=sources.previous_folder,
        )
        uploader = CheckpointUploader(
            draft.partial,
            run_folder / CHECKPOINTS_FOLDER,
            keep_last=config.checkpoints.keep_last,
            keep_best_here=plan.schedule.select_best,
            num_nodes=config.launch.num_nodes,
            is_gone=shared.others.is_gone,
        )
        monitor = TrainingMonitor(ws.progress, draft.partial, plan, uploader.on_event)
        with uploader:
            monitor.expect_ranks()
            run_training(plan, monitor.on_event, shared)
        monitor.finish()
        with phase(ws.progress, "Merging and saving", 1, "model") as progress:
            export_model(
                run_folder / EXPORT_FOLDER,
                plan.base_model_path,
                config.base_model,
                config,
                draft.directory,
            )
            progress.advance()
        monitor.write(draft.directory)
    _record(draft, monitor)
    write_model_card(
        draft.directory,
        CardFacts(
            ref=draft.ref,
            base=start.base,
            dataset=ws.artifacts.manifest(dataset),
            dataset_folder=sources.dataset_folder,
            config=config,
            learning_rate=plan.learning_rate,
            previous=start.previous,
            metrics=draft.metrics,
            counts=draft.counts,
            dropped=draft.dropped,
        ),
    )


def _record(draft: ArtifactDraft, monitor: TrainingMonitor) -> None:
    facts = monitor.facts
    draft.metrics.update(monitor.metrics())
    draft.counts["num_steps"] = monitor.num_steps
    if monitor.best_step is not None:
        draft.counts["best_step"] = monitor.best_step
    draft.counts["num_trainable_parameters"] = facts["num_trainable_parameters"]
    draft.counts["num_parameters"] = facts["num_parameters"]
    draft.details["training"] = facts
    draft.ledger["train_tokens_per_epoch"] = facts["num_tokens_per_epoch"]
    draft.ledger["loss_tokens_per_epoch"] = facts["num_loss_tokens_per_epoch"]
    draft.ledger.update(monitor.speed())
