"""The model that would be trained, without its weights: how many parameters, and which learn.

It is built on PyTorch's meta device from `config.json` alone, and the adapter is put on it by PEFT
itself, so the counts are those of the run for every architecture, pattern and kind of adapter.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.config.training import ADAPTER_METHODS, LoraSettings, Method

_NF4_BYTES = 4.127 / 8
"""Of a weight in 4 bits with doubly quantized scales (QLoRA, Dettmers et al. 2023, section 3)."""
_WIDTHS = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Parameters of a model with its adapter."""

    num_parameters: int
    num_trainable_parameters: int
    num_quantized_parameters: int
    """Of the frozen ones, those that are kept in 4 bits."""

    @property
    def num_frozen_parameters(self) -> int:
        """Those that do not learn."""
        return self.num_parameters - self.num_trainable_parameters

    def frozen_bytes(self, precision: str) -> int:
        """Of the weights that do not learn."""
        plain = self.num_frozen_parameters - self.num_quantized_parameters
        quantized = round(self.num_quantized_parameters * _NF4_BYTES)
        return plain * num_bytes_per_element(precision) + quantized


def num_bytes_per_element(precision: str) -> int:
    """Of 'bf16', 'fp16' or 'fp32'."""
    return _WIDTHS[precision]


@dataclass(frozen=True, kw_only=True)
class ModelBuild:
    """What decides how a model is made; compares and hashes by that."""

    base_path: Path
    """Folder with `config.json`; weights are not looked at."""
    method: Method
    lora: LoraSettings
    precision: str
    """'bf16', 'fp16' or 'fp32'."""
    keeps_fp32_weights: bool
    """The trained weights themselves are fp32, and autocast computes in `precision`."""
    fuses_layers: bool
    """See `pipeline_lib.training.fused.fusing`."""

    @classmethod
    def of(cls, config: FinetuneConfig, base_path: Path, precision: str) -> Self:
        """As `model.load_trainable` makes it: without DeepSpeed nobody keeps an fp32 copy."""
        return cls(
            base_path=base_path,
            method=config.method,
            lora=config.lora,
            precision=precision,
            keeps_fp32_weights=config.engine.zero_stage == 0,
            fuses_layers=config.engine.fuses_layers,
        )

    @property
    def is_adapter(self) -> bool:
        """Whether small matrices are trained."""
        return self.method in ADAPTER_METHODS


def build_skeleton(build: ModelBuild) -> Any:
    """The model on the meta device: no weights, no memory.

    Weights that are in 4 bits in the run are here in `build.precision`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    dtype = dtypes[build.precision]
    trained_dtype = torch.float32 if build.keeps_fp32_weights else dtype
    architecture = AutoConfig.from_pretrained(build.base_path)
    architecture.use_cache = False
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            architecture,
            dtype=dtype if build.is_adapter else trained_dtype,
            attn_implementation="sdpa",
        )
        if build.is_adapter:
            model = _with_adapter(model, build)
    for parameter in model.parameters():
        # PEFT leaves an adapter in the precision it was made in where it cannot move it.
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trained_dtype)
    return model


def _with_adapter(model: Any, build: ModelBuild) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=build.lora.r,
        lora_alpha=build.lora.alpha,
        lora_dropout=build.lora.dropout,
        target_modules=build.lora.target_modules,
        use_dora=build.method == "dora",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5 by an old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(model, lora, autocast_adapter_dtype=False)


def model_sizes(model: Any, method: Method) -> ModelSizes:
    """Count the parameters of a skeleton."""
    import torch

    head = model.get_output_embeddings()
    quantized = 0
    if method == "qlora":
        quantized = sum(
            module.weight.numel()
            for module in model.modules()
            if type(module) is torch.nn.Linear
            and module is not head
            and not module.weight.requires_grad
        )
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    return ModelSizes(
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_trainable_parameters=sum(trained),
        num_quantized_parameters=quantized,
    )
