"""The DeepSpeed configuration of a run."""

from __future__ import annotations

from typing import Any

from pipeline_lib.config import FinetuneConfig

MAX_GRAD_NORM = 1.0
"""Gradients are scaled down to this L2 norm."""


def deepspeed_config(config: FinetuneConfig, precision: str) -> dict[str, Any]:
    """A complete configuration: no `auto` values that only one integration understands.

    Batch sizes are spelled out so that DeepSpeed refuses a world that does not fit them.
    Gradients travel in fp32: summing bf16 over ranks loses bits, and a LoRA's are small.
    """
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_clipping": MAX_GRAD_NORM,
        "bf16": {"enabled": precision == "bf16"},
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
