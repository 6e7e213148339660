"""The DeepSpeed configuration of a run."""

from __future__ import annotations

from typing import Any

from pipeline_lib.training.plan import TrainingPlan

REDUCE_BUCKET_ELEMENTS = 50_000_000
"""Gradients that are summed over the ranks at a time. On a GPU the whole bucket is allocated from
the start: DeepSpeed's own, ten times as many, is 1 GB or 2 for an adapter of 5 million parameters.
"""


def deepspeed_config(plan: TrainingPlan) -> dict[str, Any]:
    """A complete configuration: no `auto` values that only one integration understands.

    Batch sizes are spelled out so that DeepSpeed refuses a world that does not fit them.
    Gradients travel in fp32: summing bf16 over ranks loses bits, and a LoRA's are small.
    """
    engine = plan.config.engine
    zero: dict[str, Any] = {
        "stage": engine.zero_stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_bucket_size": REDUCE_BUCKET_ELEMENTS,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": plan.device == "cuda"}
    if engine.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": plan.device == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": (
            plan.batch.micro_batch if plan.batch.unit == "rows" else 1
        ),
        "gradient_accumulation_steps": plan.batch.gradient_accumulation_steps,
        "gradient_clipping": plan.schedule.max_grad_norm,
        "bf16": {"enabled": plan.precision == "bf16"},
        "fp16": {"enabled": plan.precision == "fp16"},
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
