"""What each rank runs: `torchrun … -m pipeline_lib.training.worker <plan.json>`.

Rank 0 appends events (steps, checkpoints, the end) for the parent process to read. A rank dies with
its parent: torchrun may be killed without a chance to end its ranks.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import math
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline_lib.errors import PreemptedError, TrainingError
from pipeline_lib.training.diagnosis import record_error
from pipeline_lib.training.ending import run_and_end
from pipeline_lib.training.guard import die_with_parent
from pipeline_lib.training.model import REFERENCE_ADAPTER
from pipeline_lib.training.plan import (
    EXPORT_FOLDER,
    HISTORY_FILE,
    PREEMPTED_EXIT,
    TrainingPlan,
    append_event,
)
from pipeline_lib.training.watchdog import STACK_SIGNAL, stack_path

__all__ = ["PREEMPTED_EXIT", "main"]

_EXTRA_SECONDS = 60


def main(plan_path: Path) -> None:
    """Train according to the plan, and leave the trained weights in its export folder.

    Raises:
        SystemExit: with `PREEMPTED_EXIT`, when the ranks were told to end and have saved.
    """
    die_with_parent()
    plan = TrainingPlan.model_validate_json(plan_path.read_text())
    rank = int(os.environ["RANK"])
    with stack_path(plan.run_folder, rank).open("w") as stacks:
        faulthandler.enable()
        faulthandler.register(STACK_SIGNAL, file=stacks)
        try:
            _train(plan)
        except PreemptedError as error:
            raise SystemExit(PREEMPTED_EXIT) from error
        except Exception as error:
            record_error(plan.run_folder, rank, error)
            raise
        finally:
            faulthandler.unregister(STACK_SIGNAL)


def _is_news(record: logging.LogRecord) -> bool:
    """Not that accelerate is told 1 and DeepSpeed the number: the Trainer counts by itself."""
    return "Gradient accumulation steps mismatch" not in record.getMessage()


def _train(plan: TrainingPlan) -> None:
    import torch
    from datasets import disable_progress_bars
    from transformers import AutoTokenizer, set_seed
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate.accelerator").addFilter(_is_news)
    _meet(plan)
    set_seed(plan.config.seed)

    from pipeline_lib.training.fused.adding import add_adapters_first
    from pipeline_lib.training.fused.fusing import fuse
    from pipeline_lib.training.loop import loop_training_arguments
    from pipeline_lib.training.model import load_trainable
    from pipeline_lib.training.objectives import objective_named

    # Before the model: ZeRO-3 partitions while loading, for as long as these arguments live.
    arguments = loop_training_arguments(plan)
    model = load_trainable(plan)
    if plan.config.engine.fuses_layers:
        fuse(model)
    add_adapters_first(model)
    tokenizer = AutoTokenizer.from_pretrained(plan.base_model_path)
    trainer: Any = objective_named(plan.objective).make_trainer(plan, model, tokenizer)
    del arguments
    trainer.watch()
    rank = int(os.environ["RANK"])
    if rank == 0:
        append_event(plan.events_path, "start", **_facts(trainer, model, plan))
    trainer.train(resume_from_checkpoint=str(plan.resume_from) if plan.resume_from else None)
    trainer.save_model(str(plan.run_folder / EXPORT_FOLDER))
    torch.distributed.barrier()
    if rank == 0:
        history = [json.dumps(entry) + "\n" for entry in trainer.state.log_history]
        (plan.run_folder / HISTORY_FILE).write_text("".join(history))
    torch.distributed.destroy_process_group()


def _meet(plan: TrainingPlan) -> None:
    """Make the process group, whose limit is ours and a little: the watchdog has more to say."""
    import torch

    num_ranks = int(os.environ["WORLD_SIZE"])
    if num_ranks != plan.batch.num_ranks:
        raise TrainingError(
            f"The plan is for {plan.batch.num_ranks} ranks, but {num_ranks} have met",
            hint="Every node must run launch.num_processes ranks.",
        )
    if plan.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if plan.device == "cuda" else "gloo"
    limit = timedelta(seconds=plan.config.launch.hang_seconds + _EXTRA_SECONDS)
    if plan.config.engine.zero_stage == 0:
        torch.distributed.init_process_group(backend, timeout=limit)
        return
    import deepspeed

    if plan.device == "cpu":
        # Otherwise DeepSpeed compiles its shared-memory collectives now, which takes a C++ compiler
        # and a minute; gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Under ZeRO-3, from_pretrained needs the process group, which accelerate does not make on CPU.
    deepspeed.init_distributed(backend, timeout=limit)


def _facts(trainer: Any, model: Any, plan: TrainingPlan) -> dict[str, Any]:
    """What is about to be done, in numbers."""
    import torch

    loader_steps = len(trainer.get_train_dataloader())
    accumulation = trainer.args.gradient_accumulation_steps  # GRPO has more than the plan
    per_epoch = math.ceil(loader_steps / accumulation)
    num_steps = plan.schedule.max_steps
    if num_steps <= 0:
        num_steps = math.ceil(plan.num_epochs * per_epoch)
    return {
        **trainer.batch_facts(),
        "batch": plan.batch.model_dump(),
        "num_steps": num_steps,
        "num_trainable_parameters": _num_parameters(model, only_trainable=True),
        "num_parameters": _num_parameters(model, only_trainable=False),
        "memory_bytes": torch.cuda.memory_allocated() if plan.device == "cuda" else None,
    }


def _num_parameters(model: Any, *, only_trainable: bool) -> int:
    """Of the model that comes out: without the adapter that a preference training compares with."""
    # Under ZeRO-3 a partitioned parameter shows no elements; ds_numel is its whole size.
    return sum(
        getattr(parameter, "ds_numel", parameter.numel())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or not (only_trainable or f".{REFERENCE_ADAPTER}." in name)
    )


if __name__ == "__main__":
    run_and_end(lambda: main(Path(sys.argv[1])))
