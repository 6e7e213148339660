"""A training resolved before it runs: examples, layout, memory, where it goes on from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.models import ResolvedModel
from pipeline_lib.stage import ArtifactDraft, Workspace
from pipeline_lib.training.checkpoints import fetch_best_checkpoint, fetch_latest_checkpoint
from pipeline_lib.training.defaults import learning_rate_of, num_epochs_of
from pipeline_lib.training.export import ADAPTER_FOLDER, MERGED_FOLDER
from pipeline_lib.training.gguf import check_gguf
from pipeline_lib.training.model import check_continuation, check_method
from pipeline_lib.training.objectives import objective_named
from pipeline_lib.training.objectives.base import PrepareJob
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, TrainingPlan

if TYPE_CHECKING:
    from pipeline_lib.training.estimate import TrainingRows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a stage goes on from: a base model, and perhaps an adapter, or weights, made before."""

    base: ResolvedModel
    previous: ArtifactRef | None = None
    """The model that is trained on."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a training reads, on this machine."""

    base: ResolvedModel
    dataset_folder: Path
    previous_folder: Path | None
    """Of the model that is trained on."""


def make_plan(
    ws: Workspace,
    draft: ArtifactDraft,
    config: FinetuneConfig,
    sources: Sources,
    run_folder: Path,
) -> TrainingPlan:
    """Prepare in `run_folder` what the ranks need; what there is to say goes to `draft`.

    Raises:
        ConfigError: the configuration does not fit the machine, the model or its memory.
        InputError: there is nothing to learn from.
    """
    from pipeline_lib.training.estimate import TrainingRows
    from pipeline_lib.training.packing import resolve_layout

    batch = config.batch_arithmetic
    logger.info("Batches: %s", batch)
    device, precision = resolve_hardware(config)
    check_method(config, device)
    if config.gguf:
        check_gguf(sources.base.path)
    weights, adapter = _weights(config, sources)
    prepared = objective_named(config.stages[0]).prepare(
        PrepareJob(
            config=config,
            dataset=sources.dataset_folder,
            base=sources.base,
            run_folder=run_folder,
            num_ranks=batch.num_ranks,
            progress=ws.progress,
        )
    )
    draft.counts.update(prepared.counts)
    draft.dropped.update(prepared.dropped)
    if prepared.dropped:
        listed = (f"{why.replace('_', ' ')} {n:,}" for why, n in sorted(prepared.dropped.items()))
        logger.info("Rows left out: %s", ", ".join(listed))
    rows = TrainingRows.of_file(prepared.files["train"], config)
    learning_rate = learning_rate_of(config, sources.base.path)
    num_epochs = num_epochs_of(config, len(rows.lengths))
    max_steps = config.schedule_of(config.stages[0]).max_steps
    duration = f"{max_steps:,} steps" if max_steps > 0 else f"{num_epochs:g} epochs"
    logger.info("Learning rate %g, %s, %d rows", learning_rate, duration, len(rows.lengths))
    draft.details |= {
        "device": device,
        "precision": precision,
        "base_model": sources.base.identity,
        "objective": config.stages[0],
        "learning_rate": learning_rate,
        "num_epochs": num_epochs,
        **prepared.details,
    }
    checkpointing = _check_memory(draft, config, sources.base.path, rows)
    return TrainingPlan(
        config=config,
        batch=batch,
        base_model_path=weights,
        adapter_path=adapter,
        files=prepared.files,
        run_folder=run_folder,
        device=device,
        precision=precision,
        learning_rate=learning_rate,
        num_epochs=num_epochs,
        gradient_checkpointing=checkpointing,
        layout=resolve_layout(config.batch, weights),
        resume_from=_resumed(draft, config, run_folder),
    )


def _weights(config: FinetuneConfig, sources: Sources) -> tuple[Path, Path | None]:
    """Folders of the weights, and of the adapter on them to go on with."""
    made = sources.previous_folder
    if made is None:
        return sources.base.path, None
    if not config.is_adapter:
        return made / MERGED_FOLDER, None
    check_continuation(made / ADAPTER_FOLDER, config)
    return sources.base.path, made / ADAPTER_FOLDER


def _check_memory(
    draft: ArtifactDraft, config: FinetuneConfig, base_path: Path, rows: TrainingRows
) -> bool:
    """Estimate, keep the estimate, refuse what does not fit; whether to checkpoint gradients."""
    from pipeline_lib.training.estimate import check, estimate_training, this_machine
    from pipeline_lib.training.estimate.report import in_gb

    hardware = this_machine()
    estimate = estimate_training(config, base_path, rows, hardware)
    check(estimate, config, base_path, rows, hardware)
    logger.info(
        "Estimate: memory %s of %s", estimate.device_memory, in_gb(estimate.device_memory.available)
    )
    draft.details["estimate"] = estimate.model_dump(mode="json")
    return estimate.gradient_checkpointing


def _resumed(draft: ArtifactDraft, config: FinetuneConfig, run_folder: Path) -> Path | None:
    """The folder of the checkpoint to go on from, fetched."""
    found = fetch_latest_checkpoint(draft.partial, run_folder)
    if found is None:
        return None
    folder, step = found
    logger.info("Resuming training from the checkpoint of step %d", step)
    draft.details["resumed_from_step"] = step
    if config.schedule_of(config.stages[0]).select_best:
        fetch_best_checkpoint(draft.partial, run_folder / CHECKPOINTS_FOLDER)
    return folder


def resolve_hardware(config: FinetuneConfig) -> tuple[Any, Any]:
    """Device (`cpu`, `cuda`) and precision (`bf16`, `fp32`) of this machine for a configuration.

    Raises:
        ConfigError: there are GPUs, but fewer than ranks.
    """
    import torch

    from pipeline_lib.generation.hardware import best_device, best_precision

    device = best_device()
    num_processes, precision = config.launch.num_processes, config.engine.precision
    if device.type == "cuda" and torch.cuda.device_count() < num_processes:
        raise ConfigError(
            f"finetune.launch.num_processes is {num_processes}, but this machine has "
            f"{torch.cuda.device_count()} GPUs",
            hint="One rank runs on one GPU: lower num_processes to the number of GPUs.",
        )
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "finetune.engine.precision 'fp16' needs a GPU", hint="Use 'auto', 'bf16' or 'fp32'."
        )
    if precision != "auto":
        return device.type, precision
    return device.type, best_precision(device)
