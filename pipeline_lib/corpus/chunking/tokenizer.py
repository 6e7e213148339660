"""The embedding model's tokenizer: loading it, naming it, and what its model can read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.config import ChunkConfig
from pipeline_lib.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
_NOT_IDENTITY = ("truncation", "padding", "post_processor", "decoder")
"""Parts of a tokenizer that do not change how many tokens a text has."""


def load_tokenizer(model_path: Path) -> Tokenizer:
    """The tokenizer of the model in the folder `model_path`.

    Raises:
        ModelNotFoundError: there is no `tokenizer.json`, or it cannot be read.
    """
    from tokenizers import Tokenizer

    file = model_path / TOKENIZER_FILE
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise ModelNotFoundError(
            f"The embedding model in {model_path} has no usable {TOKENIZER_FILE}: {error}",
            hint="Save its tokenizer in the fast format (AutoTokenizer … save_pretrained).",
        ) from error
    return tokenizer


def unbounded_copy(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither truncates nor pads."""
    copy: Tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def tokenizer_identity(model_path: Path) -> str:
    """SHA-256 of what decides into which tokens a text is cut.

    Equal for two models whose chunks measure the same: a model and its fine-tuned successor, also
    when one file was saved with truncation or padding and the other was not.

    Raises:
        ModelNotFoundError: there is no `tokenizer.json`, or it cannot be read.
    """
    parts = json.loads(load_tokenizer(model_path).to_str())
    for name in _NOT_IDENTITY:
        parts.pop(name, None)
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_fits_model(config: ChunkConfig, model_path: Path, tokenizer: Tokenizer) -> None:
    """Refuse chunks whose end the embedding model would silently cut off.

    Raises:
        ConfigError: `size_tokens` and the model's special tokens exceed its longest input.
    """
    longest = _longest_input(model_path)
    if longest is None:
        return
    limit = longest - tokenizer.num_special_tokens_to_add(False)
    if config.size_tokens > limit:
        raise ConfigError(
            f"chunking.size_tokens is {config.size_tokens}, but the embedding model in "
            f"{model_path} reads at most {limit} tokens: the rest of a chunk could not be found",
            hint=f"Set chunking.size_tokens to {limit} or less, or choose another embedding model.",
        )


def _longest_input(model_path: Path) -> int | None:
    """Longest input of a sentence-transformers folder, special tokens included, if it says so."""
    file = model_path / "sentence_bert_config.json"
    if not file.is_file():
        return None
    longest = json.loads(file.read_text(encoding="utf-8")).get("max_seq_length")
    return longest if isinstance(longest, int) else None
