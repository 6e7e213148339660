"""From trained weights to a model that others can load: adapter, merged weights, card."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig

ADAPTER_FOLDER = "adapter"
MERGED_FOLDER = "merged"
LOG_FILE = "log.jsonl"
CARD_FILE = "README.md"
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def export_model(
    trained: Path, base_model_path: Path, base_model: str, config: FinetuneConfig, target: Path
) -> None:
    """Write `merged/` (and `adapter/` for LoRA) from what the trainer saved.

    The merge `W + (alpha / r) B A` is computed in fp32 and stored in the base model's own type.

    Args:
        trained: folder that the trainer saved to.
        base_model_path: the base model on this machine.
        base_model: its reference, which the adapter names instead of a path of this machine.
        config: of the run.
        target: the artifact's folder.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = target / MERGED_FOLDER
    dtype = _stored_dtype(base_model_path)
    if config.method == "lora":
        from peft import PeftModel

        model = AutoModelForCausalLM.from_pretrained(
            base_model_path, dtype=torch.float32, use_safetensors=True
        )
        with warnings.catch_warnings():
            # peft 0.21 reads a property that transformers 5.23 has renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            model = PeftModel.from_pretrained(model, trained).merge_and_unload(safe_merge=True)
        _copy_adapter(trained, base_model, target / ADAPTER_FOLDER)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            trained, dtype=torch.float32, use_safetensors=True
        )
    model.config.use_cache = True
    model.to(dtype).save_pretrained(merged)
    AutoTokenizer.from_pretrained(base_model_path).save_pretrained(merged)


def _stored_dtype(base_model_path: Path) -> Any:
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(base_model_path).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _copy_adapter(trained: Path, base_model: str, target: Path) -> None:
    target.mkdir(parents=True)
    for name in _ADAPTER_FILES:
        shutil.copy2(trained / name, target / name)
    path = target / "adapter_config.json"
    adapter_config = json.loads(path.read_text())
    adapter_config["base_model_name_or_path"] = base_model
    path.write_text(json.dumps(adapter_config, indent=2, sort_keys=True))


def write_model_card(
    target: Path,
    *,
    ref: ArtifactRef,
    dataset: ArtifactRef,
    base_model: str,
    config: FinetuneConfig,
    facts: dict[str, str],
) -> None:
    """Write the model card, in the hub's format (YAML front matter, then Markdown)."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    how = (
        f"LoRA, rank {config.lora.r}, alpha {config.lora.alpha}, on {config.lora.target_modules}"
        if config.method == "lora"
        else "all weights"
    )
    (target / CARD_FILE).write_text(
        f"""---
base_model: {json.dumps(base_model)}
library_name: transformers
pipeline_tag: text-generation
tags: [raft, retrieval-augmented-generation, raftline]
---

# {ref.name}

Answers questions from the passages it is given, and quotes the evidence word for word. Fine-tuned
from `{base_model}` by Raftline ({how}), on answers only.

| | |
|---|---|
| artifact | `{ref}` |
| dataset | `{dataset}` |
{rows}

## Use

`{MERGED_FOLDER}/` loads with `transformers.AutoModelForCausalLM`; `{ADAPTER_FOLDER}/`, where there
is one, with `peft` on top of the base model. Prompts must be written the way the training rows were
(`pipeline_lib.raft.rendering`): the passages, then the question.

## Limits

It was trained on passages of one corpus. Check quotes against their passages: Raftline's `answer`
flow does so and marks every quote that is not verbatim. The licences of the base model and of the
corpus apply to this model.

## Configuration

```json
{config.model_dump_json(indent=1)}
```
"""
    )
