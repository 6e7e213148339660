"""Documents that are nearly copies of each other, as groups.

Copies are found as the corpus finds them (`pipeline_lib.corpus.deduplication`). Being a copy is
made transitive: a chain of near-copies is one group, whatever order its documents come in.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipeline_lib.corpus.deduplication import make_lsh, minhash_of
from pipeline_lib.raft.quotes import fold


def group_near_copies(texts: Iterable[tuple[str, str]], threshold: float) -> list[list[str]]:
    """All ids, in groups of texts that are copies of each other; a text without copies is alone.

    Texts of fewer than eight word 5-grams are only grouped when they are equal but for white space.

    Args:
        texts: ids, each once, with their texts.
        threshold: estimated Jaccard similarity of word 5-grams from which texts are near-copies.
    """
    copies = _NearCopies(threshold)
    for name, text in texts:
        copies.add(name, text)
    return copies.groups()


class _NearCopies:
    """Signatures of the texts so far, and which of them belong together."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = make_lsh(threshold)
        self._names: list[str] = []
        self._parent: list[int] = []
        self._by_text: dict[bytes, int] = {}
        self._signatures: dict[int, npt.NDArray[np.uint32]] = {}

    def add(self, name: str, text: str) -> None:
        number = len(self._names)
        self._names.append(name)
        self._parent.append(number)
        same = self._by_text.setdefault(hashlib.sha256(fold(text).encode()).digest(), number)
        if same != number:
            self._join(number, same)
            return
        minhash = minhash_of(text)
        if minhash is None:
            return
        signature = np.array(minhash.digest(), dtype=np.uint32)
        for other in self._index.query(minhash):
            if float(np.mean(signature == self._signatures[other])) >= self._threshold:
                self._join(number, other)
        self._index.insert(number, minhash)
        self._signatures[number] = signature

    def groups(self) -> list[list[str]]:
        members: dict[int, list[str]] = defaultdict(list)
        for number, name in enumerate(self._names):
            members[self._root(number)].append(name)
        return list(members.values())

    def _join(self, first: int, second: int) -> None:
        self._parent[self._root(first)] = self._root(second)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number
