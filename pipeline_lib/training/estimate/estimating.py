"""One estimate: parameters, states, activations and duration of one configuration."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import InputError
from pipeline_lib.raft.extrapolation import Quantity
from pipeline_lib.training.defaults import learning_rate_of
from pipeline_lib.training.estimate.activations import ActivationMemory, activation_memory
from pipeline_lib.training.estimate.answering import WRITTEN_SHARE, Answering
from pipeline_lib.training.estimate.duration import Duration, training_duration
from pipeline_lib.training.estimate.hardware import Hardware, Precision
from pipeline_lib.training.estimate.parameters import (
    ModelBuild,
    ModelSizes,
    build_skeleton,
    model_sizes,
    num_bytes_per_element,
)
from pipeline_lib.training.estimate.report import LargestMicroBatch, MemoryUse, TrainingEstimate
from pipeline_lib.training.estimate.states import (
    StateMemory,
    checkpoint_bytes,
    has_reference,
    state_memory,
)
from pipeline_lib.training.estimate.workload import TrainingRows, plan_workload
from pipeline_lib.training.meter import ModelCost

_RANK_BYTES = {"cpu": 700_000_000, "cuda": 3_000_000_000}
"""Host memory of a rank's process with its libraries loaded, and nothing else."""
_CUDA_CONTEXT = 700_000_000
"""GPU memory of kernels and workspaces."""
_NCCL_BYTES = 400_000_000
"""GPU memory of communication among several ranks."""
_HEAP_WASTE = 0.25
"""Of what is computed with on a CPU: freed memory is kept (see `nodes`), and not all fits the next
tensor. Measured: 0.07 to 0.2 where layers are fused, 0.2 to 0.3 elsewhere."""
_ALLOCATOR_WASTE = 0.06
"""Of a GPU's tensors: blocks are rounded, and holes between them remain."""


def estimate_training(
    config: FinetuneConfig,
    base_path: Path,
    rows: TrainingRows,
    hardware: Hardware,
    *,
    gradient_checkpointing: bool | None = None,
) -> TrainingEstimate:
    """What one stage of a training will take.

    Args:
        config: of one stage: `config.stages` has one entry.
        base_path: folder with the base model's `config.json`; weights are not looked at.
        rows: that will be trained on.
        hardware: of each node.
        gradient_checkpointing: instead of what is configured; where that is 'auto', and nothing is
            said here, it is on if memory does not suffice without.

    Raises:
        InputError: there are no rows.
    """
    if not rows.lengths:
        raise InputError("There are no rows to train on, so nothing can be estimated")
    precision: Precision = (
        hardware.precision if config.engine.precision == "auto" else config.engine.precision
    )
    is_checkpointed = gradient_checkpointing
    if is_checkpointed is None and config.engine.gradient_checkpointing != "auto":
        is_checkpointed = config.engine.gradient_checkpointing == "on"
    estimator = _Estimator(config, base_path, rows, hardware, precision)
    if is_checkpointed is not None:
        return estimator.estimate(is_checkpointed=is_checkpointed)
    without = estimator.estimate(is_checkpointed=False)
    if without.fits or config.method == "activated_lora":
        return without
    return estimator.estimate(is_checkpointed=True)


@lru_cache(maxsize=16)
def _counted(build: ModelBuild) -> tuple[ModelSizes, ModelCost]:
    skeleton = build_skeleton(build)
    return model_sizes(skeleton, build.method), ModelCost.of(skeleton)


class _Estimator:
    def __init__(
        self,
        config: FinetuneConfig,
        base_path: Path,
        rows: TrainingRows,
        hardware: Hardware,
        precision: Precision,
    ) -> None:
        self._config = config
        self._workload = plan_workload(config, rows)
        self._hardware = hardware
        self._precision = precision
        self._answering = (
            Answering.of(config, base_path, rows, precision) if config.stages[0] == "grpo" else None
        )
        self._learning_rate = learning_rate_of(config, base_path)
        self._build = ModelBuild.of(config, base_path, precision)
        self._sizes, self._cost = _counted(self._build)

    def estimate(self, *, is_checkpointed: bool) -> TrainingEstimate:
        config, workload = self._config, self._workload
        activations = activation_memory(
            self._build, workload.largest, is_checkpointed=is_checkpointed
        )
        device_memory, host_memory = self._memory(activations)
        duration = training_duration(
            self._cost,
            workload,
            config,
            self._hardware,
            self._precision,
            is_checkpointed=is_checkpointed,
        )
        writing = self._writing_seconds()
        if self._answering is not None:
            duration = duration.with_writing(writing)
        num_tokens = workload.epoch.num_tokens / workload.num_steps_per_epoch * workload.num_steps
        return TrainingEstimate(
            objective=config.stages[0],
            method=config.method,
            device=self._hardware.device,
            hardware=self._hardware.name,
            precision=self._precision,
            batch=config.batch_arithmetic,
            learning_rate=self._learning_rate,
            num_parameters=self._sizes.num_parameters,
            num_trainable_parameters=self._sizes.num_trainable_parameters,
            gradient_checkpointing=is_checkpointed,
            largest_micro_batch=LargestMicroBatch(
                num_rows=workload.largest.num_rows,
                num_tokens=workload.largest.num_tokens,
                num_loss_tokens=workload.largest.num_loss_tokens,
            ),
            are_activations_simulated=activations.is_simulated,
            device_memory=device_memory,
            host_memory=host_memory,
            num_rows=workload.num_rows,
            num_tokens_per_epoch=workload.epoch.num_tokens,
            num_loss_tokens_per_epoch=workload.epoch.num_scored,
            num_steps=workload.num_steps,
            flops=duration.flops,
            seconds=duration.seconds,
            tokens_per_second=duration.rate_of(num_tokens),
            notes=self._notes(activations, duration, writing),
        )

    def _memory(self, activations: ActivationMemory) -> tuple[MemoryUse, MemoryUse]:
        """Of one device, and of one node."""
        hardware, launch = self._hardware, self._config.launch
        states = state_memory(self._sizes, self._config, self._precision, hardware.device)
        computing = self._while_computing(activations)
        of_rank = states.on_device | computing
        if hardware.device == "cpu":
            for name, size in states.on_host.items():
                of_rank[name] = of_rank.get(name, 0) + size
            churned = sum(computing.values()) + states.on_device.get("gathered weights", 0)
            of_rank["allocator"] = round(churned * _HEAP_WASTE)
            of_rank["processes"] = _RANK_BYTES["cpu"]
            parts = {name: size * launch.num_processes for name, size in of_rank.items()}
            parts["checkpoint"] = checkpoint_bytes(self._sizes, self._config)
            use = MemoryUse(parts=parts, available=hardware.host_bytes)
            return use, use
        of_rank["allocator"] = round(sum(of_rank.values()) * _ALLOCATOR_WASTE)
        several = self._config.batch_arithmetic.num_ranks > 1
        of_rank["CUDA"] = _CUDA_CONTEXT + (_NCCL_BYTES if several else 0)
        on_node = self._on_node_of_gpus(states)
        return (
            MemoryUse(parts=of_rank, available=hardware.device_bytes),
            MemoryUse(parts=on_node, available=hardware.host_bytes),
        )

    def _while_computing(self, activations: ActivationMemory) -> dict[str, int]:
        """What learning takes, or, if that is more, writing answers, which comes before."""
        learning = {"activations": activations.num_bytes}
        if self._answering is None:
            return learning
        writing = {"answers being written": self._answering.num_bytes}
        engine = self._config.engine
        if engine.offload_parameters or self._shares_weights:
            writing["all weights"] = self._weight_bytes
        return max(learning, writing, key=lambda parts: sum(parts.values()))

    @property
    def _shares_weights(self) -> bool:
        return self._config.engine.zero_stage == 3 and self._config.batch_arithmetic.num_ranks > 1

    @property
    def _weight_bytes(self) -> int:
        """Of the whole model as it computes."""
        learn_in = "fp32" if self._build.keeps_fp32_weights else self._precision
        trained = self._sizes.num_trainable_parameters * num_bytes_per_element(learn_in)
        return self._sizes.frozen_bytes(self._precision) + trained

    def _writing_seconds(self) -> Quantity | None:
        """Of all steps."""
        if self._answering is None:
            return None
        num_steps = self._workload.num_steps
        each = self._answering.seconds(
            self._weight_bytes,
            self._cost.num_layers,
            self._hardware,
            self._config.launch.num_processes,
        )
        if each is None:
            return None
        return Quantity(
            value=each.value * num_steps, low=each.low * num_steps, high=each.high * num_steps
        )

    def _on_node_of_gpus(self, states: StateMemory) -> dict[str, int]:
        """The processes, and what is offloaded, or, if that is more, what is read at the start."""
        num_processes = self._config.launch.num_processes
        processes = {"processes": _RANK_BYTES["cuda"] * num_processes}
        later = {name: size * num_processes for name, size in states.on_host.items()}
        later["checkpoint"] = checkpoint_bytes(self._sizes, self._config)
        read = self._sizes.num_parameters * num_bytes_per_element(self._precision)
        if has_reference(self._config) and not self._config.is_adapter:
            read *= 2
        if self._config.engine.zero_stage < 3:  # else each rank keeps its part only
            read *= num_processes
        return processes | max({"weights being read": read}, later, key=lambda p: sum(p.values()))

    def _notes(
        self, activations: ActivationMemory, duration: Duration, writing: Quantity | None
    ) -> tuple[str, ...]:
        notes = []
        if not activations.is_simulated:
            notes.append(
                "The model's code cannot be run without weights, so its activations are told by a "
                "formula for the usual decoder: they may be off by half."
            )
        if self._answering is not None and duration.seconds is None:
            notes.append("Writing answers takes most of the time of 'grpo', and is not estimated.")
        elif writing is not None and duration.seconds is not None:
            notes.append(
                f"Writing answers is about {writing.value / duration.seconds.value:.0%} of the "
                "time. How long they will be nobody knows: the interval is for "
                f"{WRITTEN_SHARE.low:.0%} to {WRITTEN_SHARE.high:.0%} of max_new_tokens."
            )
        if self._hardware.device == "cuda" and self._config.launch.num_nodes > 1:
            notes.append("Time spent on the network between nodes is not counted.")
        return tuple(notes)
