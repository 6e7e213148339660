"""Models of sentence-transformers, loaded from local safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer


def load_embedding_model(path: Path, device: str, **options: Any) -> SentenceTransformer:
    """An embedding model.

    Args:
        path: folder of a sentence-transformers model.
        device: where to put it.
        **options: for the model's own loader, such as `dtype`.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    hint = (
        "Give a sentence-transformers model: a folder with modules.json, config.json, "
        "tokenizer.json and model.safetensors."
    )
    model: SentenceTransformer = _load(
        SentenceTransformer, path, device, options, "embedding model", hint
    )
    return model


def load_cross_encoder(path: Path, device: str, **options: Any) -> CrossEncoder:
    """A model that scores pairs; see `load_embedding_model`."""
    from sentence_transformers import CrossEncoder

    hint = (
        "Give a sentence-transformers CrossEncoder: a folder with config.json, tokenizer.json "
        "and model.safetensors."
    )
    model: CrossEncoder = _load(CrossEncoder, path, device, options, "reranker", hint)
    return model


def _load(kind: Any, path: Path, device: str, options: Any, what: str, hint: str) -> Any:
    try:
        return kind(
            str(path),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, **options},
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"The {what} in {path} cannot be loaded: {error}", hint=hint) from error
