"""What Transformers, PEFT and vLLM expect of a model's folder, checked without loading it.

The rules are those of the loaders: Transformers' sharded safetensors and their index; PEFT's
adapter_config.json and its names of weights; vLLM's LoRA loader, which takes the same names, knows
no `modules_to_save`, no DoRA and no activated LoRA, and no rank above 512
(vllm/lora/peft_helper.py). Only the heads of the safetensors are read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.errors import ExportError

INDEX_FILE = "model.safetensors.index.json"
_WEIGHTS_FILE = "model.safetensors"
_ADAPTER_FILE = "adapter_model.safetensors"
_ADAPTER_CONFIG_FILE = "adapter_config.json"
_ADAPTER_NAME = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)"
)
_MAX_VLLM_RANK = 512
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    """As in `config.json`: float32, float16, bfloat16; else safetensors' own name."""


def check_layout(*, merged: Path | None = None, adapter: Path | None = None) -> None:
    """Refuse what would not load.

    Raises:
        ExportError: names everything that is wrong.
    """
    faults = []
    if merged is not None:
        faults += [f"{merged.name}: {fault}" for fault in model_faults(merged)]
    if adapter is not None:
        faults += [f"{adapter.name}: {fault}" for fault in adapter_faults(adapter, merged)]
    if faults:
        raise ExportError(
            "The exported model would not load: " + "; ".join(faults),
            hint="Is the base model's own folder complete (config.json, tokenizer files)?",
        )


def model_faults(folder: Path) -> list[str]:
    """What `AutoModelForCausalLM` or vLLM would stumble over; empty when nothing."""
    config = _json(folder / "config.json")
    if config is None:
        return ["config.json is missing or no JSON"]
    faults = []
    if not config.get("architectures"):
        faults.append("config.json has no 'architectures', by which vLLM chooses the model")
    if not config.get("model_type"):
        faults.append("config.json has no 'model_type', by which AutoConfig chooses the class")
    if config.get("quantization_config"):
        faults.append("config.json has a 'quantization_config', but the weights are whole")
    faults += _weight_faults(folder, config)
    faults += _tokenizer_faults(folder, config)
    if _json(folder / "generation_config.json") is None:
        faults.append("generation_config.json is missing or no JSON")
    return faults


def adapter_faults(folder: Path, merged: Path | None = None) -> list[str]:
    """What PEFT would stumble over, or what does not fit the merged model; empty when nothing."""
    config = _json(folder / _ADAPTER_CONFIG_FILE)
    if config is None:
        return [f"{_ADAPTER_CONFIG_FILE} is missing or no JSON"]
    if not (folder / _ADAPTER_FILE).is_file():
        return [f"{_ADAPTER_FILE} is missing"]
    faults = []
    if config.get("peft_type") != "LORA":
        faults.append(f"peft_type is {config.get('peft_type')!r}, not 'LORA'")
    if not config.get("target_modules"):
        faults.append("target_modules is empty")
    if config.get("modules_to_save"):
        faults.append("modules_to_save is set, which vLLM refuses")
    tensors = _tensors_of(folder / _ADAPTER_FILE)
    whole = _all_tensors(merged) if merged is not None else None
    return faults + _lora_faults(tensors, config.get("r") or 0, whole)


def vllm_obstacles(adapter: Path) -> list[str]:
    """Why vLLM cannot serve an adapter beside its base model; empty when it can."""
    config = _json(adapter / _ADAPTER_CONFIG_FILE) or {}
    obstacles = []
    if config.get("use_dora"):
        obstacles.append("vLLM does not serve DoRA adapters")
    if config.get("alora_invocation_tokens"):
        obstacles.append("vLLM takes an activated LoRA for a plain one")
    if (config.get("r") or 0) > _MAX_VLLM_RANK:
        obstacles.append(f"vLLM serves ranks up to {_MAX_VLLM_RANK}, not {config['r']}")
    return obstacles


def _weight_faults(folder: Path, config: dict[str, Any]) -> list[str]:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if not files:
        return ["there are no safetensors"]
    index = _json(folder / INDEX_FILE)
    if index is None and files != [_WEIGHTS_FILE]:
        return [f"{', '.join(files)} without {INDEX_FILE}"]
    tensors = _all_tensors(folder)
    faults = _index_faults(index, tensors, files) if index is not None else []
    found = Counter(tensor.dtype for tensor in tensors.values())
    declared = config.get("dtype", config.get("torch_dtype"))
    if set(found) != {declared}:
        told = ", ".join(f"{count} of {dtype}" for dtype, count in found.items())
        faults.append(f"config.json says {declared}, the weights are {told}")
    return faults


def _index_faults(
    index: dict[str, Any], tensors: dict[str, TensorInfo], files: list[str]
) -> list[str]:
    listed: dict[str, str] = index.get("weight_map", {})
    faults = [
        f"{INDEX_FILE} has {name} in {file}, where it is not"
        for name, file in listed.items()
        if name not in tensors or tensors[name].file != file
    ]
    faults += [f"{name} is not in {INDEX_FILE}" for name in tensors if name not in listed]
    unused = sorted(set(files) - set(listed.values()))
    if unused:
        faults.append(f"{', '.join(unused)} are not in {INDEX_FILE}")
    return faults[:5]


def _tokenizer_faults(folder: Path, config: dict[str, Any]) -> list[str]:
    faults = []
    settings = _json(folder / "tokenizer_config.json")
    if settings is None:
        faults.append("tokenizer_config.json is missing or no JSON")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        faults.append("there is neither tokenizer.json nor tokenizer.model")
    has_template = (folder / "chat_template.jinja").is_file()
    if not has_template and not (settings or {}).get("chat_template"):
        faults.append("there is no chat template")
    highest = _highest_id(folder / "tokenizer.json")
    if highest is not None and highest >= config.get("vocab_size", highest + 1):
        faults.append(
            f"the tokenizer has id {highest}, the model only {config['vocab_size']} embeddings"
        )
    return faults


def _highest_id(path: Path) -> int | None:
    tokenizer = _json(path)
    if tokenizer is None:
        return None
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    return max([*ids, *(token["id"] for token in tokenizer.get("added_tokens", []))], default=None)


def _lora_faults(
    tensors: dict[str, TensorInfo], rank: int, whole: dict[str, TensorInfo] | None
) -> list[str]:
    faults = []
    parts: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in tensors.items():
        match = _ADAPTER_NAME.fullmatch(name)
        if match is None:
            faults.append(f"{name} is no name of a LoRA's weight")
        else:
            parts.setdefault(match["module"], {})[match["part"]] = tensor
    if not parts:
        faults.append(f"{_ADAPTER_FILE} holds no LoRA")
    for module, found in parts.items():
        faults += _module_faults(module, found, rank, whole)
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        faults.append("its weights are of more than one dtype")
    return faults[:5]


def _module_faults(
    module: str, found: dict[str, TensorInfo], rank: int, whole: dict[str, TensorInfo] | None
) -> list[str]:
    first, second = found.get("lora_A.weight"), found.get("lora_B.weight")
    if first is None or second is None:
        return [f"{module} lacks lora_A or lora_B"]
    if first.shape[:1] != (rank,) or second.shape[1:] != (rank,):
        return [f"{module} has shapes {first.shape} and {second.shape}, which is not rank {rank}"]
    adapted = whole.get(f"{module}.weight") if whole is not None else None
    if adapted is not None and adapted.shape != (second.shape[0], first.shape[1]):
        return [f"{module} is {adapted.shape} in the model, which its adapter does not fit"]
    return []


def _all_tensors(folder: Path) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= _tensors_of(path)
    return tensors


def _tensors_of(path: Path) -> dict[str, TensorInfo]:
    from safetensors import safe_open

    found = {}
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            part = file.get_slice(name)
            dtype = part.get_dtype()
            found[name] = TensorInfo(path.name, tuple(part.get_shape()), _DTYPES.get(dtype, dtype))
    return found


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
