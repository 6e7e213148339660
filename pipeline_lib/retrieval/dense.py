"""Dense vectors by sentence-transformers, in length-sorted batches bounded by padded tokens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.hardware import best_device, best_dtype

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

FloatMatrix = npt.NDArray[np.float32]
OnEncoded = Callable[[int], None]
"""Called after each batch with the number of texts in it."""

_CHARS_PER_TOKEN = 4
_LOADING = threading.Lock()
"""transformers builds models through process-wide state: two threads must not load at once."""


class TextEncoder(Protocol):
    """Turns texts into vectors of one space."""

    @property
    def identity(self) -> str:
        """Equal identities give vectors of the same space."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def encode_documents(
        self, texts: Sequence[str], on_encoded: OnEncoded | None = None
    ) -> FloatMatrix:
        """Vectors `[len(texts), dimension]` of passages, in order."""

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        """Vectors `[len(texts), dimension]` of queries, in order."""


class DenseEncoder:
    """A sentence-transformers model; loaded when the first text comes.

    Computes in bfloat16 where the machine does so natively, else in float32. On a CPU the weights
    stay float32 and only matrix products are cast, which costs no speed on small models and keeps
    vectors closer to the float32 ones; on a GPU the weights are cast too.

    Safe to share between threads: they take turns, as the tokenizer is not reentrant.

    Args:
        path: folder of the model, with safetensors.
        identity: the model's content hash.
        batch_tokens: padded tokens per batch, that is texts times the longest text's tokens.
    """

    def __init__(self, path: Path, identity: str, batch_tokens: int = 8192) -> None:
        self._path = path
        self._identity = identity
        self._batch_tokens = batch_tokens
        self._turn = threading.RLock()
        self._loaded: SentenceTransformer | None = None

    @property
    def identity(self) -> str:
        """The model's content hash."""
        return self._identity

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        dimension = self._model().get_embedding_dimension()
        if dimension is None:
            return int(self.encode_queries(["dimension"]).shape[1])
        return int(dimension)

    def encode_documents(
        self, texts: Sequence[str], on_encoded: OnEncoded | None = None
    ) -> FloatMatrix:
        """Vectors of passages, with the model's document prompt if it has one.

        Texts beyond the model's longest input are cut by the model; a warning counts them.

        Returns:
            Float32 `[len(texts), dimension]`, in the order of `texts`, of unit length if the model
            normalises.
        """
        with self._turn:
            return self._encode(self._model().encode_document, texts, on_encoded)

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        """Vectors of queries, with the model's query prompt if it has one; as documents else."""
        with self._turn:
            return self._encode(self._model().encode_query, texts, None)

    def _encode(
        self, encode: Callable[..., Any], texts: Sequence[str], on_encoded: OnEncoded | None
    ) -> FloatMatrix:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        lengths = self._token_counts(texts)
        rows: list[npt.NDArray[np.float32] | None] = [None] * len(texts)
        with self._precision():
            for batch in token_budget_batches(lengths, self._batch_tokens):
                vectors = encode(
                    [texts[i] for i in batch],
                    batch_size=len(batch),
                    show_progress_bar=False,
                    convert_to_numpy=True,
                )
                for index, vector in zip(batch, vectors, strict=True):
                    rows[index] = vector
                if on_encoded is not None:
                    on_encoded(len(batch))
        matrix = np.asarray(rows, dtype=np.float32)
        return _unit_rows(matrix) if self._normalises() else matrix

    def _token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens per text as the model sees them, special tokens included."""
        from transformers import PreTrainedTokenizerBase

        model = self._model()
        tokenizer = model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            # Models without a transformer have tokenizers of another kind; a guess will do, as
            # only the sizes of batches depend on it.
            return [1 + len(text) // _CHARS_PER_TOKEN for text in texts]
        encoded = tokenizer(list(texts), verbose=False, return_attention_mask=False)
        counts = [len(ids) for ids in encoded["input_ids"]]
        longest = model.max_seq_length
        if longest is None:
            return counts
        num_cut = sum(count > longest for count in counts)
        if num_cut:
            logger.warning(
                "%d of %d texts are longer than the %d tokens that the embedding model reads; "
                "the rest of each is not embedded. Use smaller chunks.",
                num_cut,
                len(texts),
                longest,
            )
        return [min(count, longest) for count in counts]

    def _model(self) -> SentenceTransformer:
        with self._turn:
            if self._loaded is None:
                with _LOADING:
                    self._loaded = _load(self._path)
            return self._loaded

    def _precision(self) -> AbstractContextManager[object]:
        import torch

        device = self._model().device
        if device.type != "cpu" or best_dtype(device) == torch.float32:
            return nullcontext()
        return torch.autocast("cpu", dtype=best_dtype(device))

    def _normalises(self) -> bool:
        from sentence_transformers.sentence_transformer.modules import Normalize

        return any(isinstance(module, Normalize) for module in self._model())


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut indices, longest first, into batches of at most `budget` padded tokens.

    Longest first, so that running out of memory shows at once. A text longer than the budget makes
    a batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _load(path: Path) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    device = best_device()
    options: dict[str, Any] = {"use_safetensors": True}
    if device.type != "cpu":
        options["dtype"] = best_dtype(device)
    try:
        return SentenceTransformer(
            str(path),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs=options,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"The embedding model in {path} cannot be loaded: {error}",
            hint="Give a sentence-transformers model: a folder with modules.json, config.json, "
            "tokenizer.json and model.safetensors.",
        ) from error


def _unit_rows(matrix: FloatMatrix) -> FloatMatrix:
    """Rows at unit length again: half precision leaves them some 0.4 % off."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: FloatMatrix = matrix / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
