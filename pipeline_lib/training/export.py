"""From trained weights to a model that others can load.

What an artifact of the kind `model` holds:

    merged/     safetensors, tokenizer with chat template, config.json, generation_config.json
    adapter/    what PEFT and vLLM load on top of the base model (adapter methods)
    gguf/       the merged model for llama.cpp, when asked for

An activated LoRA changes the model behind the prompt only, which no merged weights can do: its
artifact has `adapter/` alone, with the tokenizer in it. `tuned_model` finds what to load of either.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ExportError, ModelNotFoundError
from pipeline_lib.models import ResolvedModel, resolve_model
from pipeline_lib.stage import Workspace
from pipeline_lib.training.layout import check_layout
from pipeline_lib.training.model import ADAPTER_CONFIG_FILE

ADAPTER_FOLDER = "adapter"
MERGED_FOLDER = "merged"
GGUF_FILE = "gguf/model-f16.gguf"
LOG_FILE = "log.jsonl"
_ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
_SHARD_SIZE = "4GB"
_GENERIC_TOKENIZER = "PreTrainedTokenizerFast"
"""The class that every version of transformers knows; its present name only the newest do."""


def export_model(
    trained: Path, base_model_path: Path, base_model: str, config: FinetuneConfig, target: Path
) -> None:
    """Write what the configuration asks for, and check that others can load it.

    Args:
        trained: folder that the trainer saved to.
        base_model_path: the base model on this machine.
        base_model: its reference, which the adapter names instead of a path of this machine.
        config: of the run.
        target: the artifact's folder.

    Raises:
        ExportError: the result is not laid out as loaders expect, or holds what GGUF cannot.
    """
    adapter, merged = target / ADAPTER_FOLDER, target / MERGED_FOLDER
    if config.is_adapter:
        _copy_adapter(trained, base_model, adapter)
    if config.method == "activated_lora":
        _save_tokenizer(base_model_path, adapter)
        check_layout(adapter=adapter)
        return
    model = merge(base_model_path, adapter) if config.is_adapter else _full(trained)
    model.to(_stored_dtype(base_model_path))
    model.config.use_cache = True
    tokenizer = _save_tokenizer(base_model_path, merged)
    _set_generation(model, tokenizer)
    model.save_pretrained(merged, max_shard_size=_SHARD_SIZE)
    del model
    check_layout(merged=merged, adapter=adapter if config.is_adapter else None)
    if config.gguf:
        from pipeline_lib.training.gguf import write_gguf

        (target / GGUF_FILE).parent.mkdir()
        write_gguf(merged, target / GGUF_FILE)


def tuned_model(ws: Workspace, ref: ArtifactRef) -> ResolvedModel:
    """What to load of a model artifact: merged weights, else the base model with the adapter.

    Raises:
        ModelNotFoundError: the base model cannot be had, or is not the one that was trained on.
    """
    folder = ws.artifacts.directory(ref)
    if (folder / MERGED_FOLDER).is_dir():
        return ResolvedModel(str(ref), folder / MERGED_FOLDER, str(ref))
    base = tuned_from(ws, ref)
    return ResolvedModel(str(ref), base.path, str(ref), adapter=folder / ADAPTER_FOLDER)


def tuned_from(ws: Workspace, ref: ArtifactRef) -> ResolvedModel:
    """The base model of a model artifact, as it was then.

    Raises:
        ModelNotFoundError: it cannot be had, or its files are others now.
    """
    manifest = ws.artifacts.manifest(ref)
    base = resolve_model(ws.settings, manifest.config["base_model"], ws.progress)
    if base.identity != manifest.inputs["base_model"]:
        raise ModelNotFoundError(
            f"The base model {base.name!r} is {base.identity} here, but {ref} was fine-tuned from "
            f"{manifest.inputs['base_model']}",
            hint="Bring back the base model's files, or fine-tune again from the present ones.",
        )
    return base


def merge(base_model_path: Path, adapter: Path) -> Any:
    """The base model with an adapter merged into it, in the base model's own number format.

    Each adapted matrix is widened to fp32, changed (`W + (alpha / r) B A`; DoRA scales its columns
    as well) and rounded once; beside the model, memory holds one such matrix at a time.

    Raises:
        ExportError: a merged weight would not be finite.
    """
    import torch
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        base_model_path, dtype=_stored_dtype(base_model_path), use_safetensors=True
    )
    with warnings.catch_warnings():
        # peft 0.21 reads a property that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = PeftModel.from_pretrained(base, adapter)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            weight = module.get_base_layer().weight
            stored = weight.dtype
            weight.data = weight.data.to(torch.float32)
            _merge_module(module)
            weight.data = weight.data.to(stored)
    return model.unload()


def _merge_module(module: Any) -> None:
    try:
        module.merge(safe_merge=True)
    except ValueError as error:
        raise ExportError(
            f"The adapter cannot be merged: {error}",
            hint="Train again with a lower learning_rate, or in fp32 (engine.precision).",
        ) from error


def _full(trained: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(trained, dtype="auto", use_safetensors=True)


def _stored_dtype(base_model_path: Path) -> Any:
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(base_model_path).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _save_tokenizer(base_model_path: Path, target: Path) -> Any:
    """The tokenizer, in files that do not name this machine or this version of transformers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model_path)
    tokenizer.save_pretrained(target)
    path = target / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only", "backend"):
        settings.pop(name, None)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = _GENERIC_TOKENIZER
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return tokenizer


def _set_generation(model: Any, tokenizer: Any) -> None:
    """Greedy, and ending at every token that the base model or the training ends at."""
    from transformers import GenerationConfig

    was = model.generation_config
    before = was.eos_token_id if isinstance(was.eos_token_id, list) else [was.eos_token_id]
    ends = dict.fromkeys(end for end in (tokenizer.eos_token_id, *before) if end is not None)
    padding = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=was.bos_token_id,
        eos_token_id=list(ends),
        pad_token_id=was.pad_token_id if padding is None else padding,
        do_sample=False,
    )


def _copy_adapter(trained: Path, base_model: str, target: Path) -> None:
    target.mkdir(parents=True)
    shutil.copy2(trained / _ADAPTER_WEIGHTS_FILE, target / _ADAPTER_WEIGHTS_FILE)
    adapter_config = json.loads((trained / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
    adapter_config["base_model_name_or_path"] = base_model
    (target / ADAPTER_CONFIG_FILE).write_text(
        json.dumps(adapter_config, indent=2, sort_keys=True), encoding="utf-8"
    )
