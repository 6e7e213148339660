"""What the process of one arm does: `python -m benchmarks.training.harness.arms <job.json>`.

Every arm leaves events in its run folder, `start` once its model is loaded and `step` after each
step, for the benchmark to read from outside. The product's own path writes them anyway. What all
arms have in common is AdamW at a constant rate, LoRA on all linear layers, and the learned tokens.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.training.harness.job import ArmJob
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.training.examples import ExampleFile
from pipeline_lib.training.guard import die_with_parent
from pipeline_lib.training.plan import EVENTS_FILE, TrainingPlan, append_event

LORA_R, LORA_ALPHA = 16, 32
_IGNORED = -100
_SEED = 42
"""Of the adapter's first weights; the product's own default, and TRL's."""
_NEVER = 1_000_000
"""Steps between checkpoints, which no arm is measured on."""


def main(job_path: Path) -> None:
    """Train as the job says; whatever ends the benchmark ends its arms."""
    die_with_parent()
    job = ArmJob.model_validate_json(job_path.read_text())
    if job.is_own:
        _train_raftline(job)
        return
    if job.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    _silence()
    trainer = _trl_trainer(job) if job.arm.startswith("trl") else _hf_trainer(job)
    trainer.add_callback(_step_events(job))
    trainer.train()


def raftline_plan(job: ArmJob) -> TrainingPlan:
    """The plan that the stage `finetune` would make of a job."""
    config = FinetuneConfig.model_validate(
        {
            "base_model": str(job.model_path),
            "method": "activated_lora" if job.arm == "raftline-activated" else job.method,
            "lora": {"r": LORA_R, "alpha": LORA_ALPHA},
            "supervised": {
                "max_steps": job.num_steps,
                "learning_rate": job.learning_rate,
                "warmup_fraction": 0.0,
                "schedule": "constant",
            },
            "batch": {
                "global_batch_size": job.num_rows,
                "micro_batch_size": job.micro_batch,
                "max_seq_len": job.max_seq_len,
                "share_contexts": job.arm in ("raftline", "raftline-activated"),
                "layout": "padded" if job.arm == "raftline-padded" else "auto",
            },
            "engine": {
                "zero_stage": job.zero_stage,
                "precision": job.precision,
                "gradient_checkpointing": "on" if job.gradient_checkpointing else "off",
                "check_memory": "off",
            },
            "launch": {"num_processes": job.num_ranks},
            "checkpoints": {"every_steps": _NEVER},
        }
    )
    return TrainingPlan(
        config=config,
        batch=config.batch_arithmetic,
        base_model_path=job.model_path,
        files={"train": job.rows_path, "validation": job.validation_path},
        run_folder=job.run_folder,
        device=job.device,
        precision=job.precision,
        learning_rate=job.learning_rate,
        num_epochs=1,
        gradient_checkpointing=job.gradient_checkpointing,
        layout="padded" if job.arm == "raftline-padded" else "packed",
    )


def _train_raftline(job: ArmJob) -> None:
    from pipeline_lib.training.launcher import run_training

    run_training(raftline_plan(job), _ignore)


def _ignore(_event: dict[str, Any]) -> None:
    """Events are read from outside."""


def _silence() -> None:
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()


def common_arguments(job: ArmJob) -> dict[str, Any]:
    """What the product's path sets too; everything else stays as each peer has it."""
    return {
        "output_dir": str(job.run_folder / "output"),
        "per_device_train_batch_size": job.micro_batch,
        "gradient_accumulation_steps": job.num_rows // job.micro_batch,
        "max_steps": job.num_steps,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "bf16": job.precision == "bf16",
        "use_cpu": job.device == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _labelled_rows(job: ArmJob) -> Any:
    """`input_ids` and `labels`, in which prompts are ignored."""
    from datasets import Dataset

    rows = []
    for example in ExampleFile(job.rows_path):
        ids, num_prompt_tokens = (
            [int(token) for token in example.input_ids],
            example.num_prompt_tokens,
        )
        labels = [_IGNORED] * num_prompt_tokens + ids[num_prompt_tokens:]
        rows.append({"input_ids": ids, "labels": labels})
    return Dataset.from_list(rows)


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=LORA_R, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _weights_type(job: ArmJob) -> str:
    return {"bf16": "bfloat16", "fp32": "float32"}[job.precision]


def _hf_trainer(job: ArmJob) -> Any:
    from peft import get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(_SEED)
    model = AutoModelForCausalLM.from_pretrained(job.model_path, dtype=_weights_type(job))
    if job.method == "lora":
        model = get_peft_model(model, _lora())
    return Trainer(
        model=model,
        args=TrainingArguments(**common_arguments(job)),
        train_dataset=_labelled_rows(job),
        data_collator=DataCollatorForSeq2Seq(
            AutoTokenizer.from_pretrained(job.model_path), label_pad_token_id=_IGNORED
        ),
    )


def _trl_trainer(job: ArmJob) -> Any:
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    arguments = common_arguments(job) | {"max_length": job.max_seq_len}
    if job.arm != "trl-default":
        arguments |= _best_trl_arguments(job)
    return SFTTrainer(
        model=str(job.model_path),
        args=SFTConfig(**arguments),
        train_dataset=_labelled_rows(job),
        processing_class=AutoTokenizer.from_pretrained(job.model_path),
        peft_config=_lora() if job.method == "lora" else None,
    )


def _best_trl_arguments(job: ArmJob) -> dict[str, Any]:
    """Padding-free pays with FlashAttention alone: else attention is computed between rows too."""
    has_flash = job.device == "cuda" and importlib.util.find_spec("flash_attn") is not None
    weights: dict[str, Any] = {"dtype": _weights_type(job)}
    if has_flash:
        weights["attn_implementation"] = "flash_attention_2"
    chosen: dict[str, Any] = {
        "gradient_checkpointing": False,
        "train_sampling_strategy": "group_by_length",
        "model_init_kwargs": weights,
    }
    if has_flash or job.arm == "trl-padding-free":
        chosen |= {"padding_free": True, "max_length": None}
    return chosen


def _step_events(job: ArmJob) -> Any:
    import torch
    from transformers import TrainerCallback

    path = job.run_folder / EVENTS_FILE

    def memory_bytes() -> int | None:
        return torch.cuda.max_memory_allocated() if job.device == "cuda" else None

    class StepEvents(TrainerCallback):  # type: ignore[misc]
        """Writes what the product's own path writes, as far as it is read here."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            """The model is loaded."""
            append_event(path, "start", memory_bytes=memory_bytes())

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            """A step is done; its loss has been waited for."""
            logs = kwargs["logs"]
            if "loss" in logs:
                append_event(
                    path,
                    "step",
                    step=state.global_step,
                    loss=float(logs["loss"]),
                    memory_bytes=memory_bytes(),
                )

    return StepEvents()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
