"""An encoder that asks the embedding cache first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from pipeline_lib.retrieval.dense import FloatMatrix, TextEncoder
from pipeline_lib.retrieval.embedding_cache import EmbeddingCache, text_sha256

_T = TypeVar("_T")

EMBED_WINDOW = 2_048
"""Texts embedded before their vectors are stored: what a crash can cost."""


class Embedder:
    """Vectors of passages, each made at most once.

    Args:
        encoder: makes those that nobody has made yet.
        cache: keeps them all; of the encoder's space.
    """

    def __init__(self, encoder: TextEncoder, cache: EmbeddingCache) -> None:
        self._encoder = encoder
        self._cache = cache
        self.num_embedded = 0
        """Texts that the encoder had to embed so far."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._encoder.dimension

    def prepare(self, texts: Iterable[str], on_ready: Callable[[int], None]) -> None:
        """Embed what the cache lacks, window by window; holds at most two windows of texts.

        Args:
            texts: may be many, and may repeat.
            on_ready: is told how many more of them have their vectors.
        """
        pending: dict[bytes, str] = {}
        for window in batched(texts, EMBED_WINDOW):
            hashes = [text_sha256(text) for text in window]
            for text, text_hash, is_there in zip(
                window, hashes, self._cache.contains(hashes), strict=True
            ):
                if is_there or text_hash in pending:
                    on_ready(1)
                else:
                    pending[text_hash] = text
            while len(pending) >= EMBED_WINDOW:
                self._embed(_pop(pending, EMBED_WINDOW), on_ready)
        if pending:
            self._embed(pending, on_ready)

    def vectors(self, texts: Sequence[str]) -> FloatMatrix:
        """Vectors `[len(texts), dimension]`, from the cache or made now."""
        hashes = [text_sha256(text) for text in texts]
        found = self._cache.get(hashes)
        missing = {h: text for h, text in zip(hashes, texts, strict=True) if h not in found}
        if missing:
            made = self._embed(missing, lambda _: None)
            found.update(zip(missing, made, strict=True))
        return np.stack([found[text_hash] for text_hash in hashes])

    def _embed(self, texts: dict[bytes, str], on_ready: Callable[[int], None]) -> FloatMatrix:
        vectors = self._encoder.encode_documents(list(texts.values()), on_ready)
        self._cache.put(list(texts), vectors)
        self.num_embedded += len(texts)
        return vectors


def batched(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Consecutive lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _pop(pending: dict[bytes, str], count: int) -> dict[bytes, str]:
    """Take the oldest `count` entries out."""
    return {text_hash: pending.pop(text_hash) for text_hash in list(pending)[:count]}
