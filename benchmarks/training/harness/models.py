"""Models to measure on: any that the product takes, or one of a real shape with random weights.

How fast a model trains depends on its shape and not on what its weights are, so a machine that no
download reaches can measure the shape of a model it does not have: `random:llama-3.1-8b`. The
tokenizer is the bundled model's; the vocabulary, and with it the work of the language-model head,
is the shape's own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline_lib.config.base import BUNDLED_LANGUAGE_MODEL
from pipeline_lib.models import resolve_model
from pipeline_lib.settings import Settings

RANDOM_PREFIX = "random:"
_FINISHED_FILE = "finished.json"
_BUNDLED_VOCABULARY = 49_152

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "model_type": "llama",
        "vocab_size": _BUNDLED_VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "llama-3.1-8b": {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}
"""`config.json` of each; the larger ones as published with the models they are named after."""


def model_folder(settings: Settings, name: str) -> Path:
    """The folder of a model, made or fetched once.

    Raises:
        ModelNotFoundError: the reference leads nowhere.
        ValueError: there is no such shape.
    """
    if not name.startswith(RANDOM_PREFIX):
        return resolve_model(settings, name).path
    shape = name.removeprefix(RANDOM_PREFIX)
    if shape not in SHAPES:
        raise ValueError(f"there is no shape {shape!r}, only {', '.join(SHAPES)}")
    folder = settings.model_cache / f"random-{shape}"
    if not (folder / _FINISHED_FILE).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        _make(SHAPES[shape], resolve_model(settings, BUNDLED_LANGUAGE_MODEL).path, folder)
    return folder


def _make(shape: dict[str, Any], tokenizer_path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from pipeline_lib.generation.hardware import best_device

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    settings = {name: value for name, value in shape.items() if name != "model_type"}
    config = AutoConfig.for_model(
        shape["model_type"],
        **settings,
        max_position_embeddings=131_072,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device(best_device()):  # 8 billion normal numbers take a CPU minutes
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / _FINISHED_FILE).write_text(json.dumps(shape))
