"""How a model is trained: objectives, batches, engine, processes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import BUNDLED_LANGUAGE_MODEL, FrozenConfig, operational
from pipeline_lib.config.batches import BatchArithmetic, BatchConfig, cut_batch
from pipeline_lib.config.objectives import (
    Objective,
    PreferenceTrainingConfig,
    PretrainingConfig,
    ReinforcementConfig,
    ScheduleConfig,
    SupervisedConfig,
)

Method = Literal["lora", "dora", "qlora", "activated_lora", "full"]
_SECTIONS: dict[Objective, str] = {
    "dapt": "pretraining",
    "sft": "supervised",
    "dpo": "preferences",
    "grpo": "reinforcement",
}
"""The field with each stage's settings."""
ADAPTER_METHODS: frozenset[Method] = frozenset({"lora", "dora", "qlora", "activated_lora"})


class LoraSettings(FrozenConfig):
    """Low-rank adaptation (Hu et al. 2021)."""

    r: int = Field(
        16, ge=1, le=1024, title="Rank", description="More parameters to train with each step up."
    )
    alpha: int = Field(32, ge=1, title="Alpha", description="Updates are scaled by alpha / rank.")
    dropout: float = Field(
        0.0, ge=0, lt=1, title="Dropout", description="Share of the adapter's inputs left out."
    )
    target_modules: str = Field(
        "all-linear", title="Target modules", description="A PEFT pattern or 'all-linear'."
    )


class EngineConfig(FrozenConfig):
    """DeepSpeed and what a forward pass costs; numbers come out the same up to rounding."""

    zero_stage: Literal[0, 1, 2, 3] = operational(
        2,
        title="DeepSpeed ZeRO stage",
        description="What the ranks share out: 0 nothing, 1 optimizer state, 2 also gradients, "
        "3 also weights.",
    )
    offload_optimizer: bool = operational(
        False,
        title="Optimizer on CPU",
        description="Optimizer state in the CPU's memory (ZeRO 1 and up).",
    )
    offload_parameters: bool = operational(
        False, title="Weights on CPU", description="Weights wait in the CPU's memory (ZeRO 3)."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        title="Precision",
        description="'auto': bf16 where the hardware has it and is not slower in it than in fp32.",
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = operational(
        "auto",
        title="Gradient checkpointing",
        description="Less memory, about a third slower. 'auto': on when the estimate says that "
        "memory does not suffice without.",
    )
    fused_layers: bool = operational(
        True,
        title="Fused layers",
        description="Adapted layers, gated MLPs and norms in fewer passes over memory, where they "
        "compute what the model's own do; not with ZeRO 3.",
    )
    neftune_noise_alpha: float = Field(
        0.0,
        ge=0,
        le=100,
        title="NEFTune noise",
        description="Noise on embeddings while training (Jain et al. 2023); 5 is usual, 0 is off.",
    )
    check_memory: Literal["refuse", "warn", "off"] = operational(
        "refuse",
        title="Memory estimate",
        description="What to do when a run is estimated not to fit into memory.",
    )

    @property
    def fuses_layers(self) -> bool:
        """Under ZeRO 3, a layer's weights are whole while it is called, and not before."""
        return self.fused_layers and self.zero_stage != 3

    @model_validator(mode="after")
    def _offload_fits(self) -> Self:
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError(
                f"offload_parameters needs zero_stage 3, not {self.zero_stage}: the other stages "
                "keep all weights on every rank"
            )
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1 or more")
        return self


class LaunchConfig(FrozenConfig):
    """The processes of a training, and how they find each other."""

    num_processes: int = operational(
        2,
        ge=1,
        le=64,
        title="Processes (ranks) per node",
        description="One per GPU; on CPU, ranks over gloo.",
    )
    num_nodes: int = operational(
        1,
        ge=1,
        le=1024,
        title="Nodes",
        description="Machines. This one is node 0; how the others join, launcher says.",
    )
    launcher: Literal["torchrun", "hostfile"] = operational(
        "torchrun",
        title="Launcher",
        description="Of several nodes. 'torchrun': start `raftline join` on every other machine; "
        "'hostfile': over SSH, by DeepSpeed.",
    )
    rendezvous: Literal["static", "c10d"] = operational(
        "static",
        title="Rendezvous",
        description="'static': node 0 waits for all the others; 'c10d': torchrun's own, elastic.",
    )
    address: str = operational(
        "127.0.0.1:0",
        title="Address of node 0",
        description="host:port at which the nodes meet; port 0: any free one (one node only).",
    )
    hostfile: str | None = operational(
        None, title="Hostfile", description="Lines of 'host slots=n', for launcher 'hostfile'."
    )
    timeout_seconds: int = operational(
        86_400, gt=0, title="Time limit (seconds)", description="The process group is ended after."
    )
    hang_seconds: int = operational(
        1800,
        gt=0,
        title="Longest silence (seconds)",
        description="Without a sign of life from the ranks for so long, the run ends with what "
        "each of them was doing.",
    )
    grace_seconds: int = operational(
        20,
        ge=0,
        le=600,
        title="Grace (seconds)",
        description="For a last checkpoint, when the run is cancelled or its machine taken away.",
    )

    @model_validator(mode="after")
    def _nodes_can_meet(self) -> Self:
        if self.num_nodes > 1 and self.launcher == "torchrun" and self.address.endswith(":0"):
            raise ValueError(
                "several nodes need a fixed address to meet at: set launch.address to "
                "'<host of node 0>:29500' or another free port"
            )
        if self.launcher == "hostfile" and not self.hostfile:
            raise ValueError("launcher 'hostfile' needs launch.hostfile")
        return self


class CheckpointConfig(FrozenConfig):
    """What a killed run goes on from."""

    every_steps: int = operational(
        20, ge=1, title="Every (steps)", description="Uploaded to S3 beside the training."
    )
    keep_last: int = operational(
        2, ge=1, le=100, title="Keep the last", description="Older ones are deleted."
    )


def sections_of_others(objectives: Collection[Objective]) -> set[str]:
    """The sections of the configuration that say nothing about these objectives."""
    return {section for other, section in _SECTIONS.items() if other not in objectives}


class FinetuneConfig(FrozenConfig):
    """From a dataset and a base model to a fine-tuned model."""

    base_model: str = Field(
        BUNDLED_LANGUAGE_MODEL,
        title="Base model",
        description="'bundled:…', a hub id, or a local folder with safetensors.",
    )
    continue_from: str | None = Field(
        None,
        title="Continue from",
        description="A model of Raftline whose adapter is trained on: 'champion', a fingerprint, "
        "or another pipeline's ('model/other@champion'). Empty: start from the base model.",
    )
    stages: tuple[Objective, ...] = Field(
        ("sft",),
        min_length=1,
        title="Stages",
        description="In this order, each going on from the one before: 'dapt' (the documents' "
        "plain text), 'sft' (the dataset's tasks), 'dpo' (preference pairs), 'grpo' (rewards).",
    )
    method: Method = Field(
        "lora",
        title="Method",
        description="'lora' trains small additional matrices ('dora': with magnitudes; 'qlora': on "
        "4-bit weights, GPU only; 'activated_lora': on the answer only), 'full' every weight.",
    )
    lora: LoraSettings = Field(default_factory=LoraSettings, title="LoRA")
    pretraining: PretrainingConfig = Field(
        default_factory=PretrainingConfig, title="Domain-adaptive pre-training (dapt)"
    )
    supervised: SupervisedConfig = Field(
        default_factory=SupervisedConfig, title="Supervised fine-tuning (sft)"
    )
    preferences: PreferenceTrainingConfig = Field(
        default_factory=PreferenceTrainingConfig, title="Preference training (dpo)"
    )
    reinforcement: ReinforcementConfig = Field(
        default_factory=ReinforcementConfig, title="Reinforcement learning (grpo)"
    )
    batch: BatchConfig = Field(default_factory=BatchConfig, title="Batches")
    engine: EngineConfig = Field(default_factory=EngineConfig, title="Engine")
    launch: LaunchConfig = operational(LaunchConfig(), title="Processes")
    checkpoints: CheckpointConfig = operational(CheckpointConfig(), title="Checkpoints")
    gguf: bool = Field(
        False, title="GGUF", description="Also save the merged model for llama.cpp (F16)."
    )
    seed: int = Field(
        42, ge=0, title="Seed", description="Of the weights' start and the rows' order."
    )

    def schedule_of(self, objective: Objective) -> ScheduleConfig:
        """The section of one stage."""
        section: ScheduleConfig = getattr(self, _SECTIONS[objective])
        return section

    def for_stage(self, objective: Objective) -> FinetuneConfig:
        """The configuration of one stage alone: settings of other stages do not name its artifact.

        What an earlier stage left is an input of a later one; only the first continues from a
        model that is named here.
        """
        fields = type(self).model_fields
        changed: dict[str, object] = {
            section: fields[section].get_default(call_default_factory=True)
            for section in sections_of_others([objective])
        }
        changed["stages"] = (objective,)
        if objective != self.stages[0]:
            changed["continue_from"] = None
        return self.model_copy(update=changed)

    @property
    def is_adapter(self) -> bool:
        """Whether small matrices are trained, and the base model's weights stay."""
        return self.method in ADAPTER_METHODS

    @property
    def batch_arithmetic(self) -> BatchArithmetic:
        """How the global batch is cut on the ranks at hand."""
        return cut_batch(self.batch, self.launch.num_processes * self.launch.num_nodes)

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        _ = self.batch_arithmetic
        return self

    @model_validator(mode="after")
    def _stages_once(self) -> Self:
        if len(set(self.stages)) != len(self.stages):
            raise ValueError(f"each stage may come once, not {', '.join(self.stages)}")
        return self

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        if self.method == "activated_lora" and set(self.stages) != {"sft"}:
            raise ValueError("activated_lora adapts answers only: its one stage is 'sft'")
        if self.method == "activated_lora" and self.gguf:
            raise ValueError(
                "activated_lora cannot be merged, so there is no GGUF of it: set gguf to false, or "
                "use method 'lora'"
            )
        if self.method == "activated_lora" and self.engine.gradient_checkpointing == "on":
            raise ValueError(
                "activated_lora does not go with gradient checkpointing, and needs none, as only "
                "answers are kept in memory: set engine.gradient_checkpointing to 'auto' or 'off'"
            )
        if self.method == "full" and self.continue_from is not None:
            raise ValueError("continue_from goes on with an adapter: method 'full' has none")
        return self
