"""What a rank holds besides activations: weights, gradients, optimizer, buffers.

AdamW keeps two numbers for each trained parameter, and somebody keeps the parameter itself in fp32:
DeepSpeed, beside the model (ZeRO, Rajbhandari et al. 2020, section 3: 16 bytes for each parameter
in mixed precision), or, without it, the model. ZeRO shares out, by its stage, the optimizer's
numbers (1), gradients (2), and weights (3) among the ranks.

An objective that compares with what the model was before keeps a frozen copy of what is trained:
of the adapter, or of the whole model, which only ZeRO 3 shares out.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.training.deepspeed import REDUCE_BUCKET_ELEMENTS
from pipeline_lib.training.estimate.parameters import ModelSizes, num_bytes_per_element

_FP32 = 4
_ADAM_STATES = 2
_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's `stage3_max_live_parameters`: weights that a rank may have gathered at a time."""
_PREFETCHED_ELEMENTS = 50_000_000
"""DeepSpeed's `stage3_prefetch_bucket_size`: weights on their way, from which they are copied."""


@dataclass(frozen=True, kw_only=True)
class StateMemory:
    """Bytes of one rank, by what they hold."""

    on_device: dict[str, int]
    on_host: dict[str, int]
    """What is offloaded; on a CPU it is in the same memory."""


def has_reference(config: FinetuneConfig) -> bool:
    """Whether the stage compares with the model that it begins with."""
    stage = config.stages[0]
    return stage == "dpo" or (stage == "grpo" and config.reinforcement.beta > 0)


def checkpoint_bytes(sizes: ModelSizes, config: FinetuneConfig) -> int:
    """Of the copies that the ranks of a node make in host memory, to be written beside training.

    Weights and both of Adam's numbers in fp32. Without DeepSpeed all ranks hold the same, and only
    one copies it.
    """
    whole = (1 + _ADAM_STATES) * _FP32 * sizes.num_trainable_parameters
    if config.engine.zero_stage == 0:
        return whole
    return -(-whole // config.batch_arithmetic.num_ranks) * config.launch.num_processes


def state_memory(
    sizes: ModelSizes, config: FinetuneConfig, precision: str, device: str
) -> StateMemory:
    """What a rank holds from its first step on.

    Args:
        sizes: of the model.
        config: of the run.
        precision: 'bf16', 'fp16' or 'fp32'.
        device: 'cpu' or 'cuda'.
    """
    if config.engine.zero_stage == 0:
        return _without_deepspeed(sizes, config, precision)
    return _with_deepspeed(sizes, config, precision, device)


def _without_deepspeed(sizes: ModelSizes, config: FinetuneConfig, precision: str) -> StateMemory:
    trained = sizes.num_trainable_parameters * _FP32
    on_device = {
        "weights": sizes.frozen_bytes(precision) + trained,
        "gradients": trained,
        "optimizer": _ADAM_STATES * trained,
    }
    if has_reference(config):
        on_device["reference"] = trained
    if config.batch_arithmetic.num_ranks > 1:
        on_device["communication"] = trained  # the buckets of DistributedDataParallel
    return StateMemory(on_device=on_device, on_host={})


def _with_deepspeed(
    sizes: ModelSizes, config: FinetuneConfig, precision: str, device: str
) -> StateMemory:
    engine, num_ranks = config.engine, config.batch_arithmetic.num_ranks
    width = num_bytes_per_element(precision)
    num_trained = sizes.num_trainable_parameters
    own = -(-num_trained // num_ranks)
    weights = sizes.frozen_bytes(precision) + num_trained * width
    held = {
        "weights": weights if engine.zero_stage < 3 else -(-weights // num_ranks),
        "gradients": _FP32 * (num_trained if engine.zero_stage == 1 else own),
        "optimizer": (1 + _ADAM_STATES) * _FP32 * own,
        "communication": _buckets(num_trained, width, engine.zero_stage, device),
    }
    if has_reference(config):
        held["reference"] = width * (num_trained if engine.zero_stage < 3 else own)
    if engine.zero_stage == 3 and num_ranks > 1:
        held["gathered weights"] = _num_gathered(sizes) * width
    offloaded: dict[str, int] = {}
    if engine.offload_optimizer:
        offloaded["optimizer"] = held.pop("optimizer")
        offloaded["gradients"] = _FP32 * own
        if engine.zero_stage < 3:
            offloaded["weights on their way back"] = width * own
        held["gradients"] = 0 if engine.zero_stage > 1 else held["gradients"]
    if engine.offload_parameters:
        for name in {"weights", "reference"} & held.keys():
            offloaded[name] = held.pop(name)
        held.setdefault("gathered weights", _num_gathered(sizes) * width)
    return StateMemory(on_device=held, on_host=offloaded)


def _num_gathered(sizes: ModelSizes) -> int:
    live = min(sizes.num_parameters, _LIVE_ELEMENTS)
    return live + min(sizes.num_parameters, _PREFETCHED_ELEMENTS)


def _buckets(num_trained: int, width: int, stage: int, device: str) -> int:
    """Where gradients wait to be summed, and the fp32 copy that is sent.

    The whole bucket is allocated; a CPU's memory is only taken where something is written.
    """
    waiting = (
        REDUCE_BUCKET_ELEMENTS if device == "cuda" else min(num_trained, REDUCE_BUCKET_ELEMENTS)
    )
    sent = min(num_trained, REDUCE_BUCKET_ELEMENTS) * _FP32
    return waiting * (_FP32 if stage == 1 else width) + sent
