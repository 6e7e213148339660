"""A sentence-transformers model, loaded in the fastest number format that keeps its vectors.

`SentenceTransformer.encode` tokenises batch after batch, between the model's own steps, and sorts
by characters. Here a whole window of texts is tokenised once, by the model's own preprocessing and
ahead of the model, and batches are cut from the token ids.

**Number format.** bfloat16 is used where the device computes in it natively *and* a sample of texts
keeps a cosine of at least 0.999 to the format the weights are stored in; else the stored format
(float32 on a CPU). The check runs once per load and costs a few dozen milliseconds for a small
model. int8 is not offered: torch's dynamic quantization of MiniLM's linear layers gave cosines of
0.82 to 0.95 on English sentences, far from that bar.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline_lib.generation.hardware import best_device, best_dtype
from pipeline_lib.retrieval.batching import TokenizedTexts
from pipeline_lib.retrieval.sentence_models import load_embedding_model

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

FloatMatrix = npt.NDArray[np.float32]
Task = Literal["document", "query"]

LOWEST_COSINE = 0.999
"""Between a vector in half precision and the same in the stored format, for half precision."""
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_SAMPLE = (
    "Yes.",
    "A list is a mutable sequence; a tuple is not.",
    "def area(radius: float) -> float:\n    return 3.14159 * radius**2",
    "Der Vertrag endet am 3. Mai, wenn er nicht vorher verlängert wird.",
    "The patient was given 20 mg daily for two weeks, after which symptoms had ceased. " * 6,
    "| year | revenue |\n|------|---------|\n| 2019 | 12.4    |\n| 2020 | 11.9    |",
)


class DenseModel:
    """One loaded model. Not to be used from two threads at once.

    Raises:
        ConfigError: the folder holds no model that sentence-transformers can load.
    """

    def __init__(self, path: Path) -> None:
        import torch

        self._path = path
        self._model = _load(path)
        self.device = self._model.device
        self._stored = _stored_dtype(self._model)
        self._dtype = self._stored
        fast = best_dtype(self.device)
        if self._stored == torch.float32 != fast:
            self._use_if_faithful(fast)

    @property
    def number_format(self) -> str:
        """What vectors are computed in, for example `bfloat16`."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def document_prompt(self) -> str:
        """What is put before every passage."""
        for name in _DOCUMENT_PROMPTS:
            if name in self._model.prompts:
                return str(self._model.prompts[name])
        return str(self._model.prompts.get(self._model.default_prompt_name or "", ""))

    @property
    def dimension(self) -> int | None:
        """Length of a vector, if the model says so."""
        dimension = self._model.get_embedding_dimension()
        return None if dimension is None else int(dimension)

    @property
    def longest_input(self) -> int | None:
        """Tokens that the model reads of a text, special tokens included, if it is bounded."""
        longest = self._model.max_seq_length
        return None if longest is None else int(longest)

    @property
    def normalises(self) -> bool:
        """Whether its vectors have unit length."""
        from sentence_transformers.sentence_transformer.modules import Normalize

        return any(isinstance(module, Normalize) for module in self._model)

    @property
    def takes_token_ids(self) -> bool:
        """Whether `tokenize` and `embed` can be used; a model without a transformer is different.

        So is one whose attention takes texts end to end, without padding.
        """
        from sentence_transformers.sentence_transformer.modules import Transformer
        from transformers import PreTrainedTokenizerBase

        return (
            isinstance(self._model[0], Transformer)
            and isinstance(self._model.tokenizer, PreTrainedTokenizerBase)
            and not self._model._can_flatten_inputs()
        )

    def tokenize(self, texts: Sequence[str], task: Task) -> TokenizedTexts:
        """Token ids with the task's prompt, cut to the longest input.

        May run in another thread than `embed`.
        """
        prompt = self.document_prompt if task == "document" else self._query_prompt()
        features = self._model.preprocess(
            list(texts),
            prompt=prompt or None,
            task=task,
            processing_kwargs={"text": {"padding": False}, "common": {"return_tensors": None}},
        )
        columns = {name: value for name, value in features.items() if isinstance(value, list)}
        shared = {name: value for name, value in features.items() if name not in columns}
        lengths = [len(ids) for ids in columns["input_ids"]]
        longest = self.longest_input
        full = [
            prompt + text
            for text, length in zip(texts, lengths, strict=True)
            if longest is not None and length >= longest
        ]
        return TokenizedTexts(columns, shared, lengths, self._count_cut(full))

    def embed(self, tokens: TokenizedTexts, rows: Sequence[int], task: Task) -> FloatMatrix:
        """Vectors `[len(rows), dimension]` of some of the tokenised texts."""
        import torch
        from sentence_transformers.util import batch_to_device

        tokenizer = self._model.tokenizer
        features = tokens.batch(
            rows,
            {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": 0, "attention_mask": 0},
            pads_left=tokenizer.padding_side == "left",
        )
        with torch.inference_mode(), self._precision():
            found = self._model(batch_to_device(features, self.device), task=task)
        vectors = found["sentence_embedding"]
        if self._model.truncate_dim is not None:
            vectors = vectors[:, : self._model.truncate_dim]
        return _as_float32(vectors)

    def encode(self, texts: Sequence[str], task: Task) -> FloatMatrix:
        """Vectors of one batch of texts, by sentence-transformers alone."""
        encode = self._model.encode_document if task == "document" else self._model.encode_query
        with self._precision():
            vectors = encode(
                list(texts),
                batch_size=len(texts),
                show_progress_bar=False,
                convert_to_numpy=False,
                convert_to_tensor=True,
            )
        return _as_float32(vectors)

    def _count_cut(self, texts: Sequence[str]) -> int:
        """How many of `texts` are longer than the model reads, not only as long."""
        longest = self.longest_input
        if not texts or longest is None:
            return 0
        counted = self._model.tokenizer(list(texts), verbose=False, return_attention_mask=False)
        return sum(len(ids) > longest for ids in counted["input_ids"])

    def _query_prompt(self) -> str:
        name = "query" if "query" in self._model.prompts else self._model.default_prompt_name
        return str(self._model.prompts.get(name or "", ""))

    def _precision(self) -> AbstractContextManager[object]:
        """On a CPU only matrix products are cast: no slower there, and closer to float32."""
        import torch

        if self.device.type != "cpu" or self._dtype == self._stored:
            return nullcontext()
        return torch.autocast("cpu", dtype=self._dtype)

    def _use_if_faithful(self, dtype: torch.dtype) -> None:
        """Change to `dtype` if the sample's vectors stay where they are."""
        exact = self.encode(_SAMPLE, "document")
        self._dtype = dtype
        if self.device.type != "cpu":
            self._model.to(dtype)
        cosine = smallest_cosine(exact, self.encode(_SAMPLE, "document"))
        # Written so that a NaN, from an overflow in half precision, is refused too.
        if not cosine >= LOWEST_COSINE:
            logger.warning(
                "In %s the embedding model's vectors change too much (cosine %.5f to %s, at least "
                "%s is needed): computing in %s instead",
                dtype,
                cosine,
                self._stored,
                LOWEST_COSINE,
                self._stored,
            )
            self._dtype = self._stored
            if self.device.type != "cpu":
                self._model = _load(self._path)  # what casting rounded off is lost


def smallest_cosine(one: FloatMatrix, other: FloatMatrix) -> float:
    """The smallest cosine between rows of the same number; NaN if any vector has NaNs."""
    products = np.einsum("ij,ij->i", one.astype(np.float64), other.astype(np.float64))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.min(products / np.maximum(norms, np.finfo(np.float64).tiny)))


def _as_float32(vectors: torch.Tensor) -> FloatMatrix:
    matrix: FloatMatrix = vectors.float().cpu().numpy()
    return matrix


def _stored_dtype(model: SentenceTransformer) -> torch.dtype:
    import torch

    parameter = next(model.parameters(), None)
    return torch.float32 if parameter is None else parameter.dtype


def _load(path: Path) -> SentenceTransformer:
    device = best_device()
    # Half-precision weights are slow on CPUs that emulate them.
    options: dict[str, Any] = {"dtype": "float32"} if device.type == "cpu" else {}
    return load_embedding_model(path, str(device), **options)
