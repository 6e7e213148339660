"""The part of the loop that saves and restores.

A save stops the training only for as long as it takes to copy the rank's state to host memory; a
thread writes the copy, and tells the parent process once all ranks of this machine have written
theirs. A resumed run continues as if it had never stopped: weights, optimizer, schedule, loss
scale, random generators, log, and place in the data. On CPU, with as many ranks, its numbers are
the same to the last bit; with another number of ranks, up to the order of sums.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer import TRAINER_STATE_NAME

from pipeline_lib.errors import PreemptedError
from pipeline_lib.training.engine_state import (
    EngineState,
    HostState,
    copy_to_host,
    engine_state,
    restore,
)
from pipeline_lib.training.plan import append_event, checkpoint_folder
from pipeline_lib.training.preemption import StopRequest
from pipeline_lib.training.randomness import random_state, restore_random_state
from pipeline_lib.training.universal import (
    STATE_FILE,
    SavedPieces,
    random_file,
    write_json,
    write_pieces,
)
from pipeline_lib.training.writing import BackgroundWriter, wait_for_files

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from pipeline_lib.training.plan import TrainingPlan

_SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What changes in DeepSpeed's dynamic loss scaler."""


class CheckpointMixin:
    """The part of the loop that saves and restores."""

    plan: TrainingPlan

    # Of the Trainer:
    args: TrainingArguments
    accelerator: Any
    control: Any
    lr_scheduler: Any
    model: torch.nn.Module
    model_wrapped: Any
    optimizer: Any
    state: Any

    _engine: EngineState
    _writer: BackgroundWriter
    _stop_request: StopRequest
    _saved_step = -1
    _is_preempted = False
    _owes_validation = False
    """Whether a validation that was due was left out, to save in time."""

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[misc]
        self._engine = engine_state(self.model, self.model_wrapped, self.optimizer)
        self._writer = BackgroundWriter()
        self._stop_request = StopRequest()
        self._stop_request.listen()
        if resume_from_checkpoint is not None:
            self._restore(Path(resume_from_checkpoint))
        return prepared

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the Trainer would load weights before there is an engine to restore."""

    def _restore(self, folder: Path) -> None:
        restore(self._engine, SavedPieces(folder))
        saved = json.loads((folder / STATE_FILE).read_text())
        self.lr_scheduler.load_state_dict(saved["schedule"])
        groups = self.lr_scheduler.optimizer.param_groups
        for group, rate in zip(groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        self._set_scaler_state(saved["loss_scale"])
        self._saved_step = self.state.global_step
        if saved["owes_validation"]:
            self._load_rng_state(str(folder))
            self.log_validation()  # type: ignore[attr-defined]
            self._start_saving()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            rank = self.args.process_index
            restore_random_state(
                Path(checkpoint) / random_file(rank),
                seed=self.args.seed,
                step=self.state.global_step,
                rank=rank,
            )

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._writer.check()
        # The Trainer also calls this at the end of an epoch, perhaps of a step that is saved.
        is_saved = self.state.global_step == self._saved_step
        if not is_saved and self._stop_request.is_agreed(self.args.device):
            self._is_preempted = True
            self._owes_validation = self.control.should_evaluate
            self.control.should_evaluate = False
            self.control.should_save = self.control.should_training_stop = True
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002
        if self.state.global_step != self._saved_step:
            self._saved_step = self.state.global_step
            self._start_saving()

    def _start_saving(self) -> None:
        self._writer.wait()
        self._writer.start(self._capture())

    def _capture(self) -> Checkpoint:
        step = self.state.global_step
        return Checkpoint(
            folder=Path(self.args.output_dir) / checkpoint_folder(step),
            step=step,
            is_best=self.is_best,  # type: ignore[attr-defined]
            rank=self.args.process_index,
            pieces=None if self._engine.is_replica else copy_to_host(self._engine),
            random=random_state(),
            state={
                "step": step,
                "owes_validation": self._owes_validation,
                "world_size": self.args.world_size,
                "schedule": self.lr_scheduler.state_dict(),
                "loss_scale": self._scaler_state(),
            },
            trainer_state=dataclasses.asdict(self.state),
            events=self.plan.events_path,
        )

    def _scaler_state(self) -> dict[str, Any] | None:
        if self.plan.precision != "fp16":
            return None
        scaler = self.accelerator.scaler
        if scaler is not None:
            state: dict[str, Any] = scaler.state_dict()
            return state
        held = self.model_wrapped.optimizer.loss_scaler
        return {name: getattr(held, name) for name in _SCALER_FIELDS if hasattr(held, name)}

    def _set_scaler_state(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state)
            return
        for name, value in state.items():
            setattr(self.model_wrapped.optimizer.loss_scaler, name, value)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        ended = super()._finalize_training(*args, **kwargs)  # type: ignore[misc]
        self._writer.wait()
        self._stop_request.stop_listening()
        if self._is_preempted:
            raise PreemptedError(
                f"The training was told to end (SIGTERM) and saved step {self.state.global_step}",
                hint="Started again, it goes on from there.",
            )
        if self.plan.schedule.select_best:
            self._restore_best()
        return ended

    def _restore_best(self) -> None:
        """Go back to the weights of the best validation; collective."""
        best: int | None = self.standing().best_step  # type: ignore[attr-defined]
        if best is not None and best != self.state.global_step:
            folder = Path(self.args.output_dir) / checkpoint_folder(best)
            restore(self._engine, SavedPieces(folder), with_optimizer=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One rank's part of a checkpoint, copied; calling it writes it."""

    folder: Path
    step: int
    is_best: bool
    rank: int
    pieces: HostState | None
    random: dict[str, Any]
    state: dict[str, Any]
    trainer_state: dict[str, Any]
    events: Path

    def __call__(self) -> None:
        """Write the files; the first rank of a machine tells its parent when all have done so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.pieces is not None:
            write_pieces(self.folder, self.rank, self.pieces)
        if self.rank == 0:
            write_json(self.folder / STATE_FILE, self.state)
            write_json(self.folder / TRAINER_STATE_NAME, self.trainer_state)
        write_json(self.folder / random_file(self.rank), self.random)
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return
        num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        ranks = range(self.rank, self.rank + num_here)
        wait_for_files(self.folder / random_file(rank) for rank in ranks)
        append_event(
            self.events,
            "checkpoint",
            step=self.step,
            folder=self.folder.name,
            is_best=self.is_best,
            node=int(os.environ.get("GROUP_RANK", "0")),  # torchrun's name for it
        )
