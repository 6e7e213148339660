"""The stage `finetune`: a dataset and a base model in, a fine-tuned model out."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.models import ResolvedModel, resolve_model
from pipeline_lib.progress import Progress, phase
from pipeline_lib.raft.rendering import FORMAT_VERSION
from pipeline_lib.raft.rows import Split, iter_rows, split_file
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage
from pipeline_lib.training.checkpoints import fetch_latest_checkpoint, upload_checkpoint
from pipeline_lib.training.export import LOG_FILE, export_model, write_model_card
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.plan import (
    CHECKPOINTS_FOLDER,
    EXPORT_FOLDER,
    HISTORY_FILE,
    TrainingPlan,
)

logger = logging.getLogger(__name__)

FINETUNE_STAGE_VERSION = 1
_ARITHMETIC = (
    "num_rows",
    "num_loss_tokens_per_epoch",
    "num_tokens_per_epoch",
    "num_steps",
    "global_batch_size",
    "num_processes",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "num_trainable_parameters",
    "num_parameters",
)
_LOGGED = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")


def finetune(ws: Workspace, name: str, config: FinetuneConfig, dataset: ArtifactRef) -> StageResult:
    """Fine-tune the base model on a dataset's training rows.

    Checkpoints go to S3 while training runs; the same call after a crash or a kill goes on from the
    last one. The calling process owns the training processes: none outlives it.

    Raises:
        ModelNotFoundError: the base model cannot be had.
        ConfigError: the machine has fewer GPUs than ranks are asked for.
        InputError: no training row fits into `max_seq_len`.
        TrainingError: a rank failed; the message ends with its log.
    """
    base = resolve_model(ws.settings, config.base_model, ws.progress)
    return run_stage(
        ws,
        kind="model",
        name=name,
        stage="finetune",
        stage_version=FINETUNE_STAGE_VERSION,
        config=config,
        inputs={
            "dataset": dataset,
            "base_model": base.identity,
            "prompt_format": str(FORMAT_VERSION),
        },
        seed=config.seed,
        build=lambda draft: _build(ws, draft, config, dataset, base),
    )


def _build(
    ws: Workspace,
    draft: ArtifactDraft,
    config: FinetuneConfig,
    dataset: ArtifactRef,
    base: ResolvedModel,
) -> None:
    with tempfile.TemporaryDirectory(prefix="training-", dir=ws.settings.scratch) as folder:
        run_folder = Path(folder)
        plan = _plan(ws, draft, config, dataset, base, run_folder)
        monitor = _Monitor(ws.progress, draft.partial, plan)
        run_training(plan, monitor.on_event)
        ws.progress.finish()
        with phase(ws.progress, "Merging and saving", 1, "models") as progress:
            export_model(
                run_folder / EXPORT_FOLDER, base.path, config.base_model, config, draft.directory
            )
            progress.advance()
        history = _read_history(run_folder / HISTORY_FILE)
    _record(draft, monitor.batch_arithmetic, history)
    lines = [json.dumps(entry) + "\n" for entry in history]
    (draft.directory / LOG_FILE).write_text("".join(lines))
    facts = {name.replace("_", " "): f"{value:.4g}" for name, value in draft.metrics.items()}
    facts |= {name.replace("_", " "): f"{value:,}" for name, value in draft.counts.items()}
    write_model_card(
        draft.directory,
        ref=draft.ref,
        dataset=dataset,
        base_model=config.base_model,
        config=config,
        facts=facts,
    )


def _plan(
    ws: Workspace,
    draft: ArtifactDraft,
    config: FinetuneConfig,
    dataset: ArtifactRef,
    base: ResolvedModel,
    run_folder: Path,
) -> TrainingPlan:
    dataset_folder = ws.artifacts.directory(dataset)
    paths = {
        split: _write_split(draft, config, base, split, dataset_folder, run_folder)
        for split in ("train", "validation")
    }
    device, precision = resolve_hardware(config)
    draft.details |= {"device": device, "precision": precision, "base_model": base.identity}
    resumed = fetch_latest_checkpoint(draft.partial, run_folder)
    if resumed:
        logger.info("Resuming training from the checkpoint of step %d", resumed[1])
        draft.details["resumed_from_step"] = resumed[1]
    return TrainingPlan(
        config=config,
        base_model_path=base.path,
        train_examples=paths["train"],
        validation_examples=paths["validation"],
        run_folder=run_folder,
        device=device,
        precision=precision,
        resume_from=resumed[0] if resumed else None,
    )


def _write_split(
    draft: ArtifactDraft,
    config: FinetuneConfig,
    base: ResolvedModel,
    split: Split,
    dataset_folder: Path,
    run_folder: Path,
) -> Path:
    from transformers import AutoTokenizer

    from pipeline_lib.training.examples import encode_rows, write_examples

    rows = iter_rows(dataset_folder / split_file(split))
    encoded = encode_rows(rows, AutoTokenizer.from_pretrained(base.path), config.max_seq_len)
    draft.counts[f"num_{split}_rows"] = len(encoded.examples)
    draft.dropped.update({f"{split}_{why}": n for why, n in encoded.dropped.items()})
    if not encoded.examples:
        raise InputError(
            f"None of the {encoded.dropped.total()} {split} rows fits into "
            f"{config.max_seq_len} tokens",
            hint="Raise finetune.max_seq_len, or use fewer distractors or smaller chunks.",
        )
    path = run_folder / f"{split}.parquet"
    write_examples(path, encoded.examples)
    return path


def resolve_hardware(config: FinetuneConfig) -> tuple[Any, Any]:
    """Device (`cpu`, `cuda`) and precision (`bf16`, `fp32`) of this machine for a configuration.

    Raises:
        ConfigError: there are GPUs, but fewer than ranks.
    """
    import torch

    from pipeline_lib.generation.hardware import best_device, best_dtype

    device = best_device()
    if device.type == "cuda" and torch.cuda.device_count() < config.num_processes:
        raise ConfigError(
            f"finetune.num_processes is {config.num_processes}, but this machine has "
            f"{torch.cuda.device_count()} GPUs",
            hint="One rank runs on one GPU: lower num_processes to the number of GPUs.",
        )
    if config.precision != "auto":
        return device.type, config.precision
    return device.type, "bf16" if best_dtype(device) == torch.bfloat16 else "fp32"


class _Monitor:
    """Turns the ranks' events into progress, and stores their checkpoints."""

    def __init__(self, progress: Progress, partial: PartialWork, plan: TrainingPlan) -> None:
        self._progress = progress
        self._partial = partial
        self._plan = plan
        self._step = 0
        self._validation_loss: float | None = None
        self.batch_arithmetic: dict[str, Any] = {}

    def on_event(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "start":
            self.batch_arithmetic = event
            logger.info(
                "Training on %d rows (%d answer tokens of %d) for %d steps of %d rows: %d ranks x "
                "%d rows x %d micro batches; %d of %d parameters learn",
                *(event[name] for name in _ARITHMETIC),
            )
            self._progress.start("Training", event["num_steps"], "steps")
        elif kind == "validation":
            self._validation_loss = event["loss"]
        elif kind == "step":
            self._on_step(event)
        elif kind == "checkpoint":
            folder = self._plan.run_folder / CHECKPOINTS_FOLDER / event["folder"]
            upload_checkpoint(self._partial, folder, event["step"])
            shutil.rmtree(folder)

    def _on_step(self, event: dict[str, Any]) -> None:
        self._progress.advance(event["step"] - self._step)
        self._step = event["step"]
        note = f"loss {event['loss']:.3f}"
        if self._validation_loss is not None:
            note += f", validation {self._validation_loss:.3f}"
        self._progress.note(note)


def _read_history(path: Path) -> list[dict[str, Any]]:
    """The training log from the first step on, also when the run was resumed in between."""
    entries = []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        kept = {name: entry[name] for name in _LOGGED if name in entry}
        if "loss" in kept or "eval_loss" in kept:
            entries.append(kept)
    return entries


def _record(
    draft: ArtifactDraft, batch_arithmetic: dict[str, Any], history: list[dict[str, Any]]
) -> None:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    validation = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    draft.metrics["final_train_loss"] = losses[-1]
    draft.metrics["initial_validation_loss"] = validation[0]
    draft.metrics["final_validation_loss"] = validation[-1]
    draft.counts["num_steps"] = batch_arithmetic["num_steps"]
    draft.counts["num_trainable_parameters"] = batch_arithmetic["num_trainable_parameters"]
    draft.counts["num_parameters"] = batch_arithmetic["num_parameters"]
    draft.details["batch_arithmetic"] = batch_arithmetic
    draft.ledger["train_tokens_per_epoch"] = batch_arithmetic["num_tokens_per_epoch"]
    draft.ledger["loss_tokens_per_epoch"] = batch_arithmetic["num_loss_tokens_per_epoch"]
