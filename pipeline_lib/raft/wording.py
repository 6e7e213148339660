"""Words of a text, for comparing texts without a model.

English in its stop words and endings; in other languages nothing is a stop word and endings stay,
which makes the comparisons stricter, never wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

_WORD = re.compile(r"\w+")
_ENDINGS = ("ing", "ies", "ed", "es", "ly", "s")
_SHORTEST_STEM = 3
_SHINGLE_WORDS = 5

OPENING_MARKS = "\"'\u201c\u2018"
CLOSING_MARKS = "\"'\u201d\u2019"
"""Straight and typographic quotation marks."""

_STOP_WORDS = """
    a about all also an and any are as at be been being between but by can could did do does done
    for from had has have how i if in into is it its made make many may might mean means more most
    much must no not of on one or other our own same should so some such than that the their them
    then there these they this those to too up us use used using very was we were what when where
    whether which while who whom whose why will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that say nothing about what a text is about."""

NUMBER = r"(?:\d+|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
"""Pattern of a number that counts something."""

_NEGATION = re.compile(r"\b(?:not?|never|cannot)\b|n['\u2019]t\b", re.IGNORECASE)


def has_negation(text: str) -> bool:
    """Whether a text says that something is not so."""
    return _NEGATION.search(text) is not None


def words(text: str) -> list[str]:
    """Words and numbers, case folded."""
    return _WORD.findall(text.casefold())


def spelled(text: str) -> str:
    """The words of a text, case folded, each between two spaces; empty without words.

    Whether some words stand in a text in their order, whatever the punctuation, is then whether
    `spelled(words)` is in `spelled(text)`.
    """
    found = _kept_words(text)
    return f" {' '.join(found)} " if found else ""


def words_in_order(answer: str) -> re.Pattern[str] | None:
    """Pattern of the answer's words, whatever case and punctuation; `None` without words."""
    words = re.findall(r"\w+", answer)
    if not words:
        return None
    return re.compile(r"\b" + r"\W+".join(map(re.escape, words)) + r"\b", re.IGNORECASE)


def has_content_words(text: str, count: int) -> bool:
    """Whether a text has at least `count` different content words; reads no further than needed."""
    found: set[str] = set()
    for match in _WORD.finditer(text):
        if len(found) >= count:
            return True
        if stem := _content_stem(match[0]):
            found.add(stem)
    return len(found) >= count


def content_words(text: str) -> list[str]:
    """Words without stop words, endings cut off: "The modules imported" is [modul, import]."""
    return [stem for word in _WORD.findall(text) if (stem := _content_stem(word))]


def overlap(left: Iterable[str], right: Iterable[str]) -> float:
    """Jaccard similarity of two collections, from 0 to 1; 0 for two empty ones."""
    first, second = set(left), set(right)
    union = first | second
    return len(first & second) / len(union) if union else 0.0


def containment(text: str, other: str) -> float:
    """Share of the shorter text's word 5-grams that the other has too, from 0 to 1.

    Fastest where `other` is the text that is compared with many.
    """
    second = _shingles(other)
    if second.isdisjoint(_grams(text)):  # almost always, and cheaper than another set
        return 0.0
    first = frozenset(_grams(text))
    shorter = min(len(first), len(second))
    return len(first & second) / shorter if shorter else 0.0


@lru_cache(maxsize=512)
def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Kept for the passages that are compared with many others."""
    return frozenset(_grams(text))


def _grams(text: str) -> Iterator[tuple[str, ...]]:
    """Word 5-grams; of a shorter text, all its words."""
    found = _kept_words(text)
    size = min(_SHINGLE_WORDS, len(found))
    return zip(*(found[start:] for start in range(size)), strict=False)


@lru_cache(maxsize=64)
def _kept_words(text: str) -> tuple[str, ...]:
    """A text is looked at from several sides, one after another."""
    return tuple(words(text))


@lru_cache(maxsize=1 << 16)
def _content_stem(word: str) -> str:
    """What is left of a word; nothing of a stop word. Texts are made of few words: kept."""
    word = word.casefold()
    if word in STOP_WORDS:
        return ""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            word = word[: -len(ending)]
            break
    return word[:-1] if word.endswith("e") and len(word) > _SHORTEST_STEM else word
