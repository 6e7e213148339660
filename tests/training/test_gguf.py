"""A GGUF written here is read back by Transformers, and is the same model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import ConfigError, ExportError
from pipeline_lib.training.gguf import check_gguf, rope_divisors, write_gguf

IDS = [[1, 70, 71, 72, 80, 90, 100, 110, 2, 60]]
TEXT = "the quick brown fox, the 2 quiet Füchse"


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """A random Llama, and a tokenizer with some merges."""
    return make_model(tmp_path / "merged")


def make_model(folder: Path, architecture: str = "Llama", **settings: Any) -> Path:
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox and the quiet queen"] * 3, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    fast.chat_template = "{{ messages[0].content }}<|im_start|>"
    fast.save_pretrained(folder)
    shape = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
    }
    config = getattr(transformers, f"{architecture}Config")(**shape | settings)
    torch.manual_seed(0)
    getattr(transformers, f"{architecture}ForCausalLM")(config).save_pretrained(folder)
    return folder


def logits_of(folder: Path, **options: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits[0]


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("Llama", {}),
        ("Llama", {"tie_word_embeddings": True, "head_dim": 32}),
        ("Mistral", {"sliding_window": None}),
        ("Qwen2", {}),
    ],
)
def test_read_back_it_gives_the_same_logits(
    tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    """Up to what F16 rounds: 11 bits."""
    import torch

    folder = make_model(tmp_path / "merged", architecture, **settings)
    write_gguf(folder, tmp_path / "model.gguf")
    expected = logits_of(folder)
    found = logits_of(tmp_path, gguf_file="model.gguf")
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_the_tokenizer_reads_text_in_the_same_way(merged: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_gguf(merged, tmp_path / "model.gguf")
    original = AutoTokenizer.from_pretrained(merged)
    found = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert found(TEXT)["input_ids"] == original(TEXT)["input_ids"]
    assert found.chat_template == original.chat_template


def test_the_fields_say_what_llama_cpp_needs(merged: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader, TokenType

    write_gguf(merged, tmp_path / "model.gguf")
    reader = GGUFReader(tmp_path / "model.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"] is False
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens[fields["tokenizer.ggml.bos_token_id"]] == "<|im_start|>"
    assert tokens[fields["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    assert fields["llama.rope.dimension_count"] == 16
    types = fields["tokenizer.ggml.token_type"]
    assert types[:3] == [TokenType.CONTROL, TokenType.CONTROL, TokenType.NORMAL]
    assert types[280:] == [TokenType.UNUSED] * 20
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_llama_3s_stretched_frequencies_are_those_of_transformers(tmp_path: Path) -> None:
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    }
    folder = make_model(tmp_path / "merged", rope_parameters=rope, head_dim=64)
    config = AutoConfig.from_pretrained(folder)
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500_000.0 ** (-torch.arange(0, 64, 2) / 64)
    divisors = torch.tensor(rope_divisors(config))
    assert (divisors[0], divisors[-1]) == (1, 8)
    torch.testing.assert_close(plain / divisors, stretched)
    write_gguf(folder, tmp_path / "model.gguf")
    tensors = {t.name: t.data.tolist() for t in GGUFReader(tmp_path / "model.gguf").tensors}
    assert tensors["rope_freqs.weight"] == pytest.approx(divisors.tolist())


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_architecture_is_refused_before_training(merged: Path) -> None:
    change_json(merged / "config.json", architectures=["PhiForCausalLM"])
    with pytest.raises(ConfigError, match="its architecture is PhiForCausalLM"):
        check_gguf(merged)


def test_another_rotary_scaling_is_refused(merged: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
    change_json(merged / "config.json", rope_parameters=rope)
    with pytest.raises(ConfigError, match="of type 'linear'"):
        check_gguf(merged)


def test_a_tokenizer_that_cuts_words_in_its_own_way_is_refused(merged: Path) -> None:
    change_json(merged / "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    with pytest.raises(ConfigError, match="its tokenizer is no byte-level BPE"):
        check_gguf(merged)


def test_a_weight_that_f16_cannot_hold_is_refused(merged: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(merged / "model.safetensors")
    weights["lm_head.weight"][0, 0] = 70_000.0
    copy = tmp_path / "copy"
    shutil.copytree(merged, copy)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"output\.weight has values up to 70000"):
        write_gguf(copy, tmp_path / "model.gguf")
