"""Which two passages a question can join.

Passages belong together when they share words that few passages have: the more of them, the better.
What is few is a number, not a share of the corpus, and each such word counts alike; so a passage
that comes or goes changes a pair only where it shares more with one of the two than they with each
other, or makes a word common. Near-copies and overlapping neighbours share words too, but join
nothing: they are left out.

The index holds the passages of one split, so no question joins training to test text. It takes
memory for each different word; words that too many passages have keep no list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from zlib import crc32

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.wording import containment, content_words

MAX_PASSAGES = 20
"""A word that more passages have says little about any of them."""
MIN_SHARED_WORDS = 2
"""Rare words that a pair must share."""
MAX_CONTAINMENT = 0.6
"""Share of the shorter passage's word 5-grams above which two passages say the same. Pages of one
form, such as leaflets of two medicines, share about half, and are worth comparing."""
_MIN_WORD_CHARS = 4
_MAX_TRIED = 8
"""Passages that are compared word for word before one counts as unpairable."""


class PassagePairs:
    """The partner of each passage.

    Args:
        chunks: passages that can be asked about, of one split.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks: dict[str, Chunk] = {}
        self._having: dict[str, list[str] | None] = {}
        for chunk in chunks:
            self._add(chunk)

    def partner(self, chunk: Chunk) -> Chunk | None:
        """The passage that shares most with `chunk`, or `None` when none shares enough.

        Of two passages one only may choose the other, by a draw, so that a pair comes once.
        """
        tried = 0
        for candidate in self._ranked(chunk):
            if tried == _MAX_TRIED:
                break
            if _may_choose(chunk, candidate) and not _overlap(chunk, candidate):
                tried += 1
                if containment(chunk.text, candidate.text) <= MAX_CONTAINMENT:
                    return candidate
        return None

    def _add(self, chunk: Chunk) -> None:
        self._chunks[chunk.chunk_id] = chunk
        for word in _telling_words(chunk.text):
            having = self._having.setdefault(word, [])
            if having is not None:
                having.append(chunk.chunk_id)
                if len(having) > MAX_PASSAGES:
                    self._having[word] = None

    def _ranked(self, chunk: Chunk) -> list[Chunk]:
        """The passages that share enough words with `chunk`, those that share most first."""
        shared = Counter(
            chunk_id
            for word in _telling_words(chunk.text)
            for chunk_id in self._having.get(word) or ()
            if chunk_id != chunk.chunk_id
        )
        found = [chunk_id for chunk_id, number in shared.items() if number >= MIN_SHARED_WORDS]
        found.sort(key=lambda other: (-shared[other], _draw(chunk.chunk_id, other), other))
        return [self._chunks[chunk_id] for chunk_id in found]


def _telling_words(text: str) -> list[str]:
    """Different content words in the order of the text, short ones and bare numbers left out."""
    words = dict.fromkeys(content_words(text))
    return [word for word in words if len(word) >= _MIN_WORD_CHARS and not word.isdigit()]


def _may_choose(chunk: Chunk, other: Chunk) -> bool:
    smaller, larger = sorted((chunk.chunk_id, other.chunk_id))
    return (_draw(smaller, larger) % 2 == 0) == (chunk.chunk_id == smaller)


def _draw(chunk_id: str, other: str) -> int:
    """A number that depends on nothing but the two ids."""
    return crc32(f"{chunk_id} {other}".encode())


def _overlap(chunk: Chunk, other: Chunk) -> bool:
    return (
        chunk.document_id == other.document_id
        and chunk.start < other.end
        and other.start < chunk.end
    )
