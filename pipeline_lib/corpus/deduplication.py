"""Each text once: exact and near copies of documents.

Texts are compared by the Jaccard similarity of their sets of word 5-grams (in scripts without
spaces a character counts as a word), estimated from MinHash signatures of 256 values: the
standard error is 0.032 at most. Locality-sensitive hashing by bands (Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, section 3.4) finds the few documents worth comparing. What is
kept of a document is its signature, its hash and its URI, never its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib.config.corpus import DeduplicationConfig
from pipeline_lib.corpus.drops import DropReason, make_drop
from pipeline_lib.corpus.schema import Document, Drop

if TYPE_CHECKING:
    from rensa import RMinHash, RMinHashLSH

NUM_PERMUTATIONS = 256
SHINGLE_WORDS = 5

_SEED = 42
_MIN_SHINGLES = 8
"""Below it a text says too little to be called nearly another; it may still equal one."""
_LEAST_RECALL = 0.98
"""Chance that a pair exactly at the threshold is compared at all."""
_SLICE_CHARS = 1 << 18
"""Text shingled at once; bounds the memory that a long document needs."""
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


class Deduplicator:
    """Lets each text and each URI through once: the first of a group of copies is kept.

    Its answers depend on the documents and their order, and on nothing else.
    """

    def __init__(self, config: DeduplicationConfig) -> None:
        self._uri_by_content: dict[str, str] = {}
        self._uris: set[str] = set()
        self._near = _NearCopies(config.threshold) if config.near_duplicates else None

    def refuse(self, document: Document) -> Drop | None:
        """The drop, if an earlier document has this text, nearly this text, or this URI.

        Else the document is remembered.
        """
        uri = document.source_uri
        kept_uri = self._uri_by_content.get(document.content_sha256)
        if kept_uri is not None:
            detail = f"its text equals that of {kept_uri}, which was kept"
            return make_drop(uri, DropReason.DUPLICATE, detail)
        if uri in self._uris:
            detail = "an earlier document has this URI with another text"
            return make_drop(uri, DropReason.DUPLICATE_URI, detail)
        if self._near and (copy := self._near.find_or_add(document)):
            detail = (
                f"its text is nearly that of {copy.uri}, which was kept "
                f"(similarity about {copy.similarity:.2f})"
            )
            return make_drop(uri, DropReason.NEAR_DUPLICATE, detail)
        self._uri_by_content[document.content_sha256] = uri
        self._uris.add(uri)
        return None


class _Copy(NamedTuple):
    uri: str
    similarity: float
    """Estimated Jaccard similarity, 0 to 1."""


class _NearCopies:
    """The signatures of the documents that were kept."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = make_lsh(threshold)
        self._signatures: list[npt.NDArray[np.uint32]] = []
        self._uris: list[str] = []

    def find_or_add(self, document: Document) -> _Copy | None:
        """The most similar kept document, the first of equals; `None`: this one is kept now."""
        minhash = minhash_of(document.text)
        if minhash is None:
            return None
        signature = np.array(minhash.digest(), dtype=np.uint32)
        copies = [
            (float(np.mean(signature == self._signatures[number])), -number)
            for number in self._index.query(minhash)
        ]
        similarity, number = max(copies, default=(0.0, 0))
        if similarity >= self._threshold:
            return _Copy(self._uris[-number], similarity)
        self._index.insert(len(self._uris), minhash)
        self._signatures.append(signature)
        self._uris.append(document.source_uri)
        return None


def minhash_of(text: str) -> RMinHash | None:
    """MinHash of the text's word 5-grams; `None` for a text with fewer than eight."""
    from rensa import RMinHash

    minhash, num_shingles = RMinHash(num_perm=NUM_PERMUTATIONS, seed=_SEED), 0
    for batch in shingles(text):
        minhash.update(batch)
        num_shingles += len(batch)
    return minhash if num_shingles >= _MIN_SHINGLES else None


def make_lsh(threshold: float) -> RMinHashLSH:
    """An empty index that finds the few texts worth comparing with one, by its `minhash_of`."""
    from rensa import RMinHashLSH

    return RMinHashLSH(
        threshold=threshold,
        num_perm=NUM_PERMUTATIONS,
        num_bands=NUM_PERMUTATIONS // rows_per_band(threshold),
    )


def split_words(text: str) -> list[str]:
    """The text's words in lower case; in scripts without spaces, its characters."""
    return _WORD.findall(text.casefold())


def shingles(text: str) -> Iterator[list[str]]:
    """The word 5-grams of the text in lower case, a stretch of the text at a time."""
    carried: list[str] = []
    for start in range(0, len(text), _SLICE_CHARS):
        words = carried + split_words(text[start : start + _SLICE_CHARS])
        yield [" ".join(gram) for gram in zip(*(words[n:] for n in range(SHINGLE_WORDS)))]  # noqa: B905
        carried = words[-(SHINGLE_WORDS - 1) :]


def rows_per_band(threshold: float) -> int:
    """Signature values per band: as many as `_LEAST_RECALL` allows, for the fewest comparisons.

    Two documents of similarity s share one of b bands of r values with probability
    1 - (1 - s^r)^b.
    """
    rows = NUM_PERMUTATIONS
    while rows > 1:
        num_bands = NUM_PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** num_bands >= _LEAST_RECALL:
            break
        rows //= 2
    return rows
