"""A merged model as one GGUF file for llama.cpp: matrices in F16, vectors in F32.

Written for the Llama family with byte-level BPE tokenizers (Llama 3, SmolLM2, Qwen2 and what is
shaped like them); anything else is refused, before training where `check_gguf` is asked. Tensors go
from the safetensors into the file one at a time.

Names of fields and tensors are those of the `gguf` package. Two things differ from the safetensors:
llama.cpp rotates neighbouring pairs of a head's numbers where Transformers rotates halves, so the
rows of Llama's query and key matrices change places; and Llama 3's stretched rotary frequencies are
a tensor of divisors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline_lib.errors import ConfigError, ExportError


@dataclass(frozen=True)
class _Family:
    """How one architecture is called in GGUF."""

    name: str
    rotates_pairs: bool
    """Whether rows of query and key matrices change places."""


_FAMILIES = {
    "LlamaForCausalLM": _Family("llama", rotates_pairs=True),
    "MistralForCausalLM": _Family("llama", rotates_pairs=True),
    "Qwen2ForCausalLM": _Family("qwen2", rotates_pairs=False),
}
_ROPE_TYPES = ("default", "llama3")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {_WORDS % r"\p{N}{1,3}": "llama-bpe", _WORDS % r"\p{N}": "qwen2"}
"""How a pre-tokenizer cuts text, and what llama.cpp calls it (llama-vocab.cpp)."""


def check_gguf(model: Path) -> None:
    """Refuse a model that cannot be written; reads its JSON files only.

    Args:
        model: folder of the base or the merged model.

    Raises:
        ConfigError: another architecture, rotary scaling, attention window, or tokenizer.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    architecture = next(iter(config.architectures or []), "none")
    rope = config.rope_parameters.get("rope_type", "default") if _has_rope(config) else "none"
    reason = None
    if architecture not in _FAMILIES:
        reason = f"its architecture is {architecture}, not one of {', '.join(_FAMILIES)}"
    elif rope not in _ROPE_TYPES:
        reason = f"its rotary embedding is of type {rope!r}, not one of {', '.join(_ROPE_TYPES)}"
    elif _has_window(config):
        reason = f"its attention has a window of {config.sliding_window} tokens"
    elif _split_name(model) is None:
        reason = "its tokenizer is no byte-level BPE that cuts words as Llama 3, Qwen2 or GPT-2 do"
    if reason is not None:
        raise ConfigError(
            f"finetune.gguf: a GGUF of {model.name} cannot be written: {reason}",
            hint="Set finetune.gguf to false, and convert merged/ with llama.cpp's own converter.",
        )


def write_gguf(merged: Path, target: Path) -> None:
    """Write a merged model's folder as one file.

    Raises:
        ConfigError: see `check_gguf`.
        ExportError: a weight is too large for F16, or has no name in GGUF.
    """
    import gguf
    from transformers import AutoConfig

    check_gguf(merged)
    config = AutoConfig.from_pretrained(merged)
    family = _FAMILIES[config.architectures[0]]
    with closing(gguf.GGUFWriter(target, family.name)) as writer:
        _add_shape(writer, config)
        _add_tokenizer(writer, merged, config.vocab_size)
        tensors = list(_tensors(merged, config, family))
        for tensor in tensors:
            dtype = _number_type(tensor)
            size = math.prod(tensor.shape) * dtype.itemsize
            writer.add_tensor_info(tensor.name, tensor.shape, dtype, size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_narrowed(tensor))


def rope_divisors(config: Any) -> list[float]:
    """What Llama 3 divides its rotary frequencies by, from the fastest to the slowest.

    Long waves are stretched by `factor`, short ones are kept, and between the two it is blended
    (Llama 3.1; `_compute_llama3_parameters` in Transformers).
    """
    rope = config.rope_parameters
    width, original = _head_dim(config), rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    divisors = []
    for place in range(0, width, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (place / width)
        kept = min(max((original / wave - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - kept) / rope["factor"] + kept))
    return divisors


def _has_rope(config: Any) -> bool:
    return bool(getattr(config, "rope_parameters", None))


def _has_window(config: Any) -> bool:
    uses = getattr(config, "use_sliding_window", True)
    return bool(uses and getattr(config, "sliding_window", None))


def _head_dim(config: Any) -> int:
    own: int | None = getattr(config, "head_dim", None)
    return own or int(config.hidden_size // config.num_attention_heads)


def _add_shape(writer: Any, config: Any) -> None:
    import gguf

    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _parsed_tokenizer(model: Path) -> dict[str, Any]:
    path = model / "tokenizer.json"
    parsed: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return parsed


def _split_name(model: Path) -> str | None:
    """llama.cpp's name for how the tokenizer cuts text before it merges; `None` if it has none."""
    parsed = _parsed_tokenizer(model)
    pre = parsed.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers", [pre])
    kinds = [part.get("type") for part in parts]
    if parsed.get("model", {}).get("type") != "BPE" or kinds[-1:] != ["ByteLevel"]:
        return None
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        return _SPLITS.get(parts[0]["pattern"].get("Regex", ""))
    return None


def _add_tokenizer(writer: Any, merged: Path, size: int) -> None:
    from gguf import TokenType
    from transformers import AutoTokenizer

    tokenizer, parsed = AutoTokenizer.from_pretrained(merged), _parsed_tokenizer(merged)
    names = [f"[PAD{number}]" for number in range(size)]
    types = [TokenType.UNUSED] * size
    for name, number in parsed["model"]["vocab"].items():
        names[number], types[number] = name, TokenType.NORMAL
    for token in parsed.get("added_tokens", []):
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        names[token["id"]], types[token["id"]] = token["content"], kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(merged))
    writer.add_token_list(names)
    writer.add_token_types(types)
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in parsed["model"]["merges"]
    ]
    if merges:
        writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    begins = tokenizer("a")["input_ids"][0]
    writer.add_add_bos_token(begins == tokenizer.bos_token_id)
    writer.add_chat_template(tokenizer.chat_template)


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Any]
    """Its numbers, as an array."""


def _tensors(merged: Path, config: Any, family: _Family) -> Iterator[_Tensor]:
    import gguf
    from safetensors import safe_open

    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family.name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    if config.rope_parameters.get("rope_type") == "llama3":
        divisors = rope_divisors(config)
        yield _Tensor("rope_freqs.weight", (len(divisors),), partial(_array, divisors))
    for path in sorted(merged.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        for name, shape in shapes.items():
            ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if ours is None:
                raise ExportError(f"GGUF has no name for the weight {name} of {merged.name}")
            yield _Tensor(ours, shape, partial(_read, path, name, _num_heads(name, config, family)))


def _num_heads(name: str, config: Any, family: _Family) -> int:
    """Heads whose rows change places; 0 where none do."""
    if not family.rotates_pairs:
        return 0
    if ".q_proj." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in name else 0


def _read(path: Path, name: str, num_heads: int) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensor = file.get_tensor(name).float()
    if num_heads:
        halves = tensor.reshape(num_heads, 2, -1, *tensor.shape[1:])
        tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor.numpy()


def _array(values: Sequence[float]) -> Any:
    import numpy as np

    return np.array(values)


def _number_type(tensor: _Tensor) -> Any:
    import numpy as np

    return np.dtype(np.float32 if len(tensor.shape) == 1 else np.float16)


def _narrowed(tensor: _Tensor) -> Any:
    import numpy as np

    values, dtype = tensor.load(), _number_type(tensor)
    largest = float(np.abs(values).max())
    if not largest <= float(np.finfo(dtype).max):
        raise ExportError(
            f"The weight {tensor.name} has values up to {largest:g}, which {dtype} cannot hold",
            hint="Set finetune.gguf to false, and convert merged/ with llama.cpp's own converter "
            "to BF16.",
        )
    return values.astype(dtype)
