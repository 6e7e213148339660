"""What each rank runs: `torchrun … -m pipeline_lib.training.worker <plan.json>`.

Rank 0 appends events (steps, checkpoints, the end) for the parent process to read. A rank dies with
its parent: torchrun may be killed without a chance to end its ranks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline_lib.errors import RaftlineError
from pipeline_lib.training.guard import die_with_parent
from pipeline_lib.training.plan import (
    ERROR_FILE,
    EXPORT_FOLDER,
    HISTORY_FILE,
    TrainingPlan,
    append_event,
)


def main(plan_path: Path) -> None:
    """Train according to the plan, and leave the trained weights in its export folder."""
    die_with_parent()
    plan = TrainingPlan.model_validate_json(plan_path.read_text())
    try:
        _train(plan)
    except RaftlineError as error:
        record = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        (plan.run_folder / ERROR_FILE).write_text(json.dumps(record))
        raise


def _train(plan: TrainingPlan) -> None:
    import deepspeed
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import set_seed
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    rank = int(os.environ["RANK"])
    if plan.device == "cpu":
        # Otherwise DeepSpeed compiles its shared-memory collectives now, which takes a C++ compiler
        # and a minute; gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Under ZeRO-3, from_pretrained needs the process group, which accelerate does not make on CPU.
    deepspeed.init_distributed("nccl" if plan.device == "cuda" else "gloo")
    set_seed(plan.config.seed)

    from pipeline_lib.training.trainer import AnswerTrainer, ProgressEvents, training_arguments

    arguments = training_arguments(plan)  # before the model: ZeRO-3 partitions while loading
    model = _load_model(plan)
    cache = plan.run_folder / f"datasets-{rank}"
    train, validation = (
        Dataset.from_parquet(str(path), cache_dir=str(cache))
        for path in (plan.train_examples, plan.validation_examples)
    )
    trainer = AnswerTrainer(model, arguments, train, validation)
    trainer.add_callback(ProgressEvents(plan))
    if rank == 0:
        append_event(plan.events_path, "start", **_batch_arithmetic(trainer, model, plan))
    trainer.train(resume_from_checkpoint=str(plan.resume_from) if plan.resume_from else None)
    trainer.save_model(str(plan.run_folder / EXPORT_FOLDER))
    torch.distributed.barrier()
    if rank == 0:
        history = [json.dumps(entry) + "\n" for entry in trainer.state.log_history]
        (plan.run_folder / HISTORY_FILE).write_text("".join(history))
    torch.distributed.destroy_process_group()


def _load_model(plan: TrainingPlan) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = plan.config
    model = AutoModelForCausalLM.from_pretrained(
        plan.base_model_path,
        dtype=torch.bfloat16 if plan.precision == "bf16" else torch.float32,
        use_safetensors=True,
        attn_implementation="sdpa",
    )
    model.config.use_cache = False
    if config.method == "full":
        return model
    lora = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        task_type="CAUSAL_LM",
    )
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    # DeepSpeed keeps the fp32 master copy itself; a mix of dtypes breaks ZeRO-3's partitioning.
    return get_peft_model(model, lora, autocast_adapter_dtype=False)


def _batch_arithmetic(trainer: Any, model: Any, plan: TrainingPlan) -> dict[str, Any]:
    config = plan.config
    train = trainer.train_dataset
    num_tokens = sum(len(ids) for ids in train["input_ids"])
    num_prompt_tokens = sum(train["num_prompt_tokens"])
    return {
        "num_rows": len(train),
        "num_tokens_per_epoch": num_tokens,
        "num_loss_tokens_per_epoch": num_tokens - num_prompt_tokens,
        "num_processes": config.num_processes,
        "micro_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "global_batch_size": config.global_batch_size,
        "num_steps": trainer.num_steps,
        "num_trainable_parameters": _num_parameters(model, only_trainable=True),
        "num_parameters": _num_parameters(model, only_trainable=False),
    }


def _num_parameters(model: Any, *, only_trainable: bool) -> int:
    # Under ZeRO-3 a partitioned parameter shows no elements; ds_numel is its whole size.
    return sum(
        getattr(parameter, "ds_numel", parameter.numel())
        for parameter in model.parameters()
        if parameter.requires_grad or not only_trainable
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
