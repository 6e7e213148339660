"""The model that a rank trains: base weights, and an adapter on them unless all are trained.

Somebody must keep fp32 numbers for the small updates to add up in. Under DeepSpeed it does, beside
the model, whose weights are all in the run's precision (a mix would break ZeRO-3's partitioning).
Without it (ZeRO stage 0) the trained weights themselves are fp32, and autocast computes in the
run's precision; the frozen weights of an adapter's base are in the run's precision either way.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    from pipeline_lib.training.plan import TrainingPlan

ADAPTER_CONFIG_FILE = "adapter_config.json"
ALL_LINEAR = "all-linear"
REFERENCE_ADAPTER = "ref"
"""What TRL calls the copy of the adapter that a preference training compares with."""


def check_method(config: FinetuneConfig, device: str) -> None:
    """Refuse a method that this machine cannot do, before any process is started.

    Args:
        config: of the run.
        device: 'cpu' or 'cuda'.

    Raises:
        ConfigError: 'qlora' without a GPU, without bitsandbytes or with ZeRO 3.
    """
    if config.method != "qlora":
        return
    if device != "cuda":
        raise ConfigError(
            f"finetune.method 'qlora' needs a GPU, and this run is on {device!r}",
            hint="Use method 'lora': it trains the same adapter on unquantized weights.",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "finetune.method 'qlora' needs bitsandbytes, which is not installed",
            hint="pip install 'raftline[qlora]', or use method 'lora'.",
        )
    if config.engine.zero_stage == 3:
        raise ConfigError(
            "finetune.method 'qlora' does not go with ZeRO 3: 4-bit weights are not partitioned",
            hint="Set engine.zero_stage to 0, 1 or 2.",
        )


def check_continuation(adapter: Path, config: FinetuneConfig) -> None:
    """Refuse to go on with an adapter that the configuration describes differently.

    Which layers 'all-linear' stands for is known with the model only; `load_trainable` compares.

    Args:
        adapter: its folder.
        config: of the run that goes on with it.

    Raises:
        ModelNotFoundError: there is no adapter in the folder.
        ConfigError: another rank, alpha, target pattern, or kind of adapter.
    """
    path = adapter / ADAPTER_CONFIG_FILE
    if not path.is_file():
        raise ModelNotFoundError(
            f"There is no adapter to continue from in {adapter}",
            hint="finetune.continue_from needs a model that was trained with an adapter; the one "
            "named was trained in full.",
        )
    saved = json.loads(path.read_text(encoding="utf-8"))
    pairs = {
        "lora.r": (saved["r"], config.lora.r),
        "lora.alpha": (saved["lora_alpha"], config.lora.alpha),
        "method": (_method_of(saved), _kind(config.method)),
    }
    if config.lora.target_modules != ALL_LINEAR:
        pairs["lora.target_modules"] = (saved["target_modules"], config.lora.target_modules)
    differing = {name: values for name, values in pairs.items() if values[0] != values[1]}
    if differing:
        told = ", ".join(f"{name} {was!r} (not {now!r})" for name, (was, now) in differing.items())
        raise ConfigError(
            f"The adapter to continue from has {told}",
            hint="Set finetune to what the adapter has, or start from the base model "
            "(continue_from empty).",
        )


def _method_of(saved: dict[str, Any]) -> str:
    if saved.get("alora_invocation_tokens"):
        return "activated_lora"
    return "dora" if saved.get("use_dora") else "lora"


def _kind(method: str) -> str:
    """QLoRA's adapter is a LoRA's; only the weights below it differ."""
    return "lora" if method == "qlora" else method


def load_trainable(plan: TrainingPlan) -> Any:
    """Load the base model, and put a new adapter on it or the one to go on with.

    Raises:
        ConfigError: the method does not fit the hardware, or the adapter not the configuration.
        ModelNotFoundError: the base model's files lack some of its weights.
    """
    check_method(plan.config, plan.device)
    model = _load_base(plan)
    model.config.use_cache = False
    if not plan.config.is_adapter:
        return model
    if plan.adapter_path is None:
        model = _with_new_adapter(model, plan)
    else:
        model = _continued(model, plan, plan.adapter_path)
    _refuse_tied_targets(model)
    return model


def _load_base(plan: TrainingPlan) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[plan.precision]
    options: dict[str, Any] = {}
    if plan.config.method == "qlora":
        options = _quantized(dtype)
    elif not plan.config.is_adapter and not plan.config.engine.zero_stage:
        dtype = torch.float32
    model, loading = AutoModelForCausalLM.from_pretrained(
        plan.base_model_path,
        dtype=dtype,
        use_safetensors=True,
        attn_implementation="sdpa",
        output_loading_info=True,
        **options,
    )
    if loading["missing_keys"]:
        raise ModelNotFoundError(
            f"The base model in {plan.base_model_path} lacks {len(loading['missing_keys'])} of its "
            f"weights ({sorted(loading['missing_keys'])[0]}, …); they would start at random",
            hint="Bring all safetensors of the model, and the config.json that belongs to them.",
        )
    return model


def _quantized(dtype: Any) -> dict[str, Any]:
    """4-bit NormalFloat with double quantization (Dettmers et al. 2023)."""
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
        "device_map": {"": torch.cuda.current_device()},
    }


def _with_new_adapter(model: Any, plan: TrainingPlan) -> Any:
    from peft import LoraConfig, get_peft_model

    settings = plan.config.lora
    lora = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        use_dora=plan.config.method == "dora",
        alora_invocation_tokens=_invocation(plan),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora, autocast_adapter_dtype=_keeps_fp32_adapter(plan))


def _continued(model: Any, plan: TrainingPlan, adapter: Path) -> Any:
    from peft import PeftConfig, PeftModel

    check_continuation(adapter, plan.config)
    saved = PeftConfig.from_pretrained(adapter)
    saved.lora_dropout = plan.config.lora.dropout
    if plan.config.lora.target_modules == ALL_LINEAR:
        _check_all_linear(model, saved.target_modules)
    return PeftModel.from_pretrained(
        model,
        adapter,
        config=saved,
        is_trainable=True,
        autocast_adapter_dtype=_keeps_fp32_adapter(plan),
    )


def _keeps_fp32_adapter(plan: TrainingPlan) -> bool:
    """Whether nobody else keeps fp32 numbers; see the module."""
    return plan.config.engine.zero_stage == 0


def _invocation(plan: TrainingPlan) -> list[int] | None:
    if plan.config.method != "activated_lora":
        return None
    from transformers import AutoTokenizer

    from pipeline_lib.training.activated import invocation_tokens

    return list(invocation_tokens(AutoTokenizer.from_pretrained(plan.base_model_path)))


def _check_all_linear(model: Any, saved: Any) -> None:
    """Compare by the last part of names, which is how an adapter lists them."""
    import torch

    head = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    adapted = {saved} if isinstance(saved, str) else {name.rpartition(".")[2] for name in saved}
    if adapted != linear:
        raise ConfigError(
            f"The adapter to continue from is on {sorted(adapted)}, but lora.target_modules "
            f"{ALL_LINEAR!r} means {sorted(linear)} in this model",
            hint="Set finetune.lora.target_modules to the pattern that the adapter was trained "
            "with, or start from the base model (continue_from empty).",
        )


def _refuse_tied_targets(model: Any) -> None:
    """An adapter on one of two tied matrices would, merged, change both."""
    base = model.get_base_model()
    if not base.config.tie_word_embeddings:
        return
    tied = {id(base.get_input_embeddings()), id(base.get_output_embeddings())}
    adapted = next(
        (
            name
            for name, module in base.named_modules()
            if id(module) in tied and _is_adapted(module)
        ),
        None,
    )
    if adapted is not None:
        raise ConfigError(
            f"finetune.lora.target_modules takes in {adapted!r}, which this model ties to another "
            "matrix: merged, the adapter would change both",
            hint=f"Use {ALL_LINEAR!r}, or a pattern without embeddings and head.",
        )


def _is_adapted(module: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)
