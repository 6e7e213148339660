"""Dense vectors by sentence-transformers, in length-sorted batches bounded by padded tokens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pipeline_lib.retrieval.batching import TokenizedTexts, token_budget_batches

if TYPE_CHECKING:
    from pipeline_lib.retrieval.dense_model import DenseModel, Task

logger = logging.getLogger(__name__)

FloatMatrix = npt.NDArray[np.float32]
OnEncoded = Callable[[int], None]
"""Called after each batch with the number of texts in it."""

TOKENIZE_WINDOW = 2_048
"""Texts tokenised, and sorted by length, together; one window is ahead of the model."""
_GPU_BATCH_FACTOR = 16
"""How many times more tokens a batch has on a GPU, which needs them to be busy."""
_CHARS_PER_TOKEN = 4
_LOADING = threading.Lock()
"""transformers builds models through process-wide state: two threads must not load at once."""


class TextEncoder(Protocol):
    """Turns texts into vectors of one space."""

    @property
    def identity(self) -> str:
        """Equal identities give vectors of the same space."""

    @property
    def document_recipe(self) -> str:
        """What besides the model shapes a passage's vector: the prompt and the number format.

        Equal identities and recipes give equal vectors up to rounding, so that a vector made once
        need not be made again. May load the model.
        """

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

    Computes in bfloat16 where the device does so natively and the vectors stay what they are (see
    `dense_model`), else in float32. On a CPU the weights stay float32 and only matrix products are
    cast, which costs no speed on small models and keeps vectors closer to the float32 ones; on a
    GPU the weights are cast too.

    Safe to share between threads: they take turns, as the tokenizer is not reentrant.

    Args:
        path: folder of the model, with safetensors.
        identity: the model's content hash.
        batch_tokens: padded tokens per batch, that is texts times the longest text's tokens; a GPU
            gets 16 times as many.
    """

    def __init__(self, path: Path, identity: str, batch_tokens: int = 8192) -> None:
        self._path = path
        self._identity = identity
        self._batch_tokens = batch_tokens
        self._turn = threading.RLock()
        self._loaded: DenseModel | None = None

    @property
    def identity(self) -> str:
        """The model's content hash."""
        return self._identity

    @property
    def document_recipe(self) -> str:
        """The prompt for passages and the number format; loads the model."""
        model = self._model()
        return f"prompt={model.document_prompt!r} format={model.number_format}"

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        dimension = self._model().dimension
        if dimension is None:
            return int(self.encode_queries(["dimension"]).shape[1])
        return dimension

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
            return self._encode(texts, "document", on_encoded)

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        """Vectors of queries, with the model's query prompt if it has one; as documents else."""
        with self._turn:
            return self._encode(texts, "query", None)

    def _encode(
        self, texts: Sequence[str], task: Task, on_encoded: OnEncoded | None
    ) -> FloatMatrix:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        model = self._model()
        batches = self._batches_of_tokens if model.takes_token_ids else self._batches_of_texts
        rows: list[npt.NDArray[np.float32] | None] = [None] * len(texts)
        for indices, vectors in batches(model, texts, task):
            for index, vector in zip(indices, vectors, strict=True):
                rows[index] = vector
            if on_encoded is not None:
                on_encoded(len(indices))
        matrix = np.asarray(rows, dtype=np.float32)
        return _unit_rows(matrix) if model.normalises else matrix

    def _batches_of_tokens(
        self, model: DenseModel, texts: Sequence[str], task: Task
    ) -> Iterator[tuple[list[int], FloatMatrix]]:
        """Indices and vectors batch by batch, while the next window is being tokenised."""
        budget = self._budget(model)
        num_cut = 0
        for start, tokens in _tokenized_ahead(model, texts, task):
            num_cut += tokens.num_cut
            for batch in token_budget_batches(tokens.lengths, budget):
                yield [start + row for row in batch], model.embed(tokens, batch, task)
        if num_cut:
            logger.warning(
                "%d of %d texts are longer than the %d tokens that the embedding model reads; "
                "the rest of each is not embedded. Use smaller chunks.",
                num_cut,
                len(texts),
                model.longest_input,
            )

    def _batches_of_texts(
        self, model: DenseModel, texts: Sequence[str], task: Task
    ) -> Iterator[tuple[list[int], FloatMatrix]]:
        """For models that do not take token ids: lengths are guessed, which only shapes batches."""
        lengths = [1 + len(text) // _CHARS_PER_TOKEN for text in texts]
        for batch in token_budget_batches(lengths, self._budget(model)):
            yield batch, model.encode([texts[index] for index in batch], task)

    def _budget(self, model: DenseModel) -> int:
        on_gpu = model.device.type != "cpu"
        return self._batch_tokens * (_GPU_BATCH_FACTOR if on_gpu else 1)

    def _model(self) -> DenseModel:
        from pipeline_lib.retrieval.dense_model import DenseModel

        with self._turn:
            if self._loaded is None:
                with _LOADING:
                    self._loaded = DenseModel(self._path)
            return self._loaded


@lru_cache(maxsize=2)
def shared_encoder(path: Path, identity: str, batch_tokens: int) -> DenseEncoder:
    """One encoder for all calls in this process, so that a worker loads its model once."""
    return DenseEncoder(path, identity, batch_tokens)


def _tokenized_ahead(
    model: DenseModel, texts: Sequence[str], task: Task
) -> Iterator[tuple[int, TokenizedTexts]]:
    """First index and token ids of window after window, the next made in a thread meanwhile."""
    starts = range(0, len(texts), TOKENIZE_WINDOW)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as thread:

        def submit(start: int) -> Future[TokenizedTexts]:
            return thread.submit(model.tokenize, texts[start : start + TOKENIZE_WINDOW], task)

        upcoming = submit(starts[0])
        for start, following in zip(starts, [*starts[1:], None], strict=True):
            tokens = upcoming.result()
            if following is not None:
                upcoming = submit(following)
            yield start, tokens


def _unit_rows(matrix: FloatMatrix) -> FloatMatrix:
    """Rows at unit length again: half precision leaves them some 0.4 % off."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: FloatMatrix = matrix / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
