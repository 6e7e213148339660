"""Questions that were asked before, and reasoning that another row has already.

Near-duplicates are found exactly, among as many questions as memory has room for, by prefix
filtering (Chaudhuri, Ganti and Kaushik 2006; Bayardo, Ma and Srikant 2007): two sets of n and m
words whose Jaccard similarity is at least t share o = ceil(t (n + m) / (1 + t)) of them, and so one
of the first n - o + 1 words of the one, in any order of words that both keep to. With the rarest
words first, few questions share one, and most of these differ in a 64-bit mask of their words. How
rare a word is shows only as questions come in, so the words are put in order anew, and the index
with them, each time the number of questions has doubled.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.base import SingleGate
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.wording import content_words

_FIRST_ORDERING = 1024
"""Questions after which words are first put in order."""
_NEW_WORD = 1 << 32
"""Taken off the number of a word that came after the last ordering: it counts as rare."""
_ROUNDING = 1e-9
"""Keeps 0.07 * 100, which is 7.000000000000001, from counting as more than 7."""
_SIZE_BITS = 20
"""Room for the number of words of a question."""
_LONG_POSTING = 48
"""From so many questions on NumPy is faster than a loop."""
_DIGEST_BYTES = 16


class AskedBefore:
    """Questions, to find those that ask the same again; some 400 bytes each.

    Two ask the same when the Jaccard similarity of their content words reaches the threshold and
    they name the same numbers: what happened in 1991 is not what happened in 1992.

    Args:
        threshold: above 0, at most 1.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[str] = []
        self._words = array("I")
        """The words of all questions, as numbers, one question after the other."""
        self._starts = array("Q", [0])
        self._without_words: dict[str, str] = {}
        self._vocabulary = _Vocabulary()
        self._masks = array("Q")
        self._largest = 0
        """Words of the longest question."""
        self._postings: dict[int, array[int]] = {}
        """Questions by each of their rarest words and their number of words."""
        self._next_ordering = _FIRST_ORDERING

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._texts)

    def find(self, question: str, *, word_for_word: bool = False) -> str | None:
        """The first question that asks the same.

        Args:
            question: to look for.
            word_for_word: whether only case and white space may differ.
        """
        return self._find(question, self._vocabulary.read(question), word_for_word)

    def find_or_add(self, question: str, *, word_for_word: bool = False) -> str | None:
        """As `find`; where there is none, the question is remembered."""
        words = self._vocabulary.read(question)
        same = self._find(question, words, word_for_word)
        if same is None:
            self._add(question, words)
        return same

    def extend(self, questions: Iterable[str]) -> None:
        """Remember questions, also those that ask the same as others."""
        for question in questions:
            self._add(question, self._vocabulary.read(question))

    def _find(self, question: str, words: Sequence[int], word_for_word: bool) -> str | None:
        if not words:
            return self._without_words.get(_bare(question))
        wanted, size = set(words), len(words)
        for number in self._sharing(words):
            other = self._words_of(number)
            num_shared = len(wanted.intersection(other))
            if num_shared / (size + len(other) - num_shared) < self._threshold:
                continue
            text = self._texts[number]
            if word_for_word:
                if _bare(text) == _bare(question):
                    return text
            elif self._vocabulary.numerals(words) == self._vocabulary.numerals(other):
                return text
        return None

    def _sharing(self, words: Sequence[int]) -> list[int]:
        """Questions that may share enough of the words, in their order."""
        found: set[int] = set()
        size, mask = len(words), _mask(words)
        ordered = self._vocabulary.ordered(words)
        smallest = math.ceil(size * self._threshold - _ROUNDING)
        largest = min(self._largest, math.floor(size / self._threshold + _ROUNDING))
        for other_size in range(smallest, largest + 1):
            spare = size - self._least_shared(size, other_size)
            for word in ordered[: spare + 1]:
                posting = self._postings.get(_key(word, other_size))
                if posting is not None:
                    found.update(self._alike(posting, mask, spare))
        return sorted(found)

    def _alike(self, posting: array[int], mask: int, spare: int) -> Iterable[int]:
        """Of some questions, those that lack at most `spare` of the words, going by the masks."""
        if len(posting) < _LONG_POSTING:
            masks = self._masks
            return [n for n in posting if (mask & ~masks[n]).bit_count() <= spare]
        numbers = np.frombuffer(posting, np.uint32)
        lacking = np.uint64(mask) & ~np.frombuffer(self._masks, np.uint64)[numbers]
        alike: list[int] = numbers[np.bitwise_count(lacking) <= spare].tolist()
        return alike

    def _add(self, question: str, words: Sequence[int]) -> None:
        self._texts.append(question)
        self._words.extend(words)
        self._starts.append(len(self._words))
        self._masks.append(_mask(words))
        self._largest = max(self._largest, len(words))
        if not words:
            self._without_words.setdefault(_bare(question), question)
        self._vocabulary.count(words)
        self._post(len(self._texts) - 1, words)
        if len(self._texts) == self._next_ordering:
            self._next_ordering *= 2
            self._vocabulary.order()
            self._postings = {}
            for number in range(len(self._texts)):
                self._post(number, self._words_of(number))

    def _post(self, number: int, words: Sequence[int]) -> None:
        """Note a question under the words that one of the least size would share with it."""
        size = len(words)
        least = self._least_shared(size, math.ceil(size * self._threshold - _ROUNDING))
        for word in self._vocabulary.ordered(words)[: size - least + 1]:
            key = _key(word, size)
            posting = self._postings.get(key)
            if posting is None:
                self._postings[key] = array("I", (number,))
            else:
                posting.append(number)

    def _least_shared(self, size: int, other_size: int) -> int:
        """Words that sets of these sizes share at the threshold."""
        share = self._threshold / (1 + self._threshold)
        return math.ceil(share * (size + other_size) - _ROUNDING)

    def _words_of(self, number: int) -> array[int]:
        return self._words[self._starts[number] : self._starts[number + 1]]


class _Vocabulary:
    """Words as numbers, and the order of words."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._counts = array("I")
        """Questions that have a word."""
        self._is_numeral = bytearray()
        self._places = array("I")
        """The order, the rarest first, of the words that were known when it was made."""

    def read(self, text: str) -> list[int]:
        """The different content words of a text."""
        return [self._number(word) for word in dict.fromkeys(content_words(text))]

    def count(self, words: Iterable[int]) -> None:
        """One more question has these words."""
        for word in words:
            self._counts[word] += 1

    def order(self) -> None:
        """Put all words known by now in order."""
        self._places = array("I", bytes(len(self._counts) * self._places.itemsize))
        by_count = sorted(range(len(self._counts)), key=self._counts.__getitem__)
        for place, word in enumerate(by_count):
            self._places[word] = place

    def ordered(self, words: Iterable[int]) -> list[int]:
        """The words in order, those that came after it was made before all others."""
        places = self._places
        num_placed = len(places)
        return sorted(words, key=lambda w: places[w] if w < num_placed else w - _NEW_WORD)

    def numerals(self, words: Iterable[int]) -> set[int]:
        """Those of the words that have a digit."""
        return {word for word in words if self._is_numeral[word]}

    def _number(self, word: str) -> int:
        number = self._numbers.setdefault(word, len(self._numbers))
        if number == len(self._counts):
            self._counts.append(0)
            self._is_numeral.append(any(character.isdigit() for character in word))
        return number


class NewQuestion(SingleGate):
    """A question that nobody asked before, in the whole dataset.

    A user's question is dropped only when it is there word for word.

    Args:
        asked: the questions so far; those that pass are added.
    """

    step = "new"

    def __init__(self, asked: AskedBefore) -> None:
        self._asked = asked

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        is_user = candidate.source == "user"
        same = self._asked.find_or_add(candidate.question, word_for_word=is_user)
        return None if same is None else Rejection(self.step, "asked_before", same)


class SaidBefore:
    """Reasoning that rows have, as hashes: a teacher that repeats itself teaches nothing."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def add(self, reasoning: str) -> bool:
        """Remember a text; whether it is new. Case and white space do not count."""
        digest = hashlib.sha256(_bare(reasoning).encode("utf-8", "surrogatepass")).digest()
        known = len(self._digests)
        self._digests.add(digest[:_DIGEST_BYTES])
        return len(self._digests) > known


class NewReasoning(SingleGate):
    """Reasoning that no other row has; quotes do not count as reasoning.

    Args:
        said: the reasoning so far; what passes is added.
    """

    step = "reasoning"

    def __init__(self, said: SaidBefore) -> None:
        self._said = said

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        steps = candidate.written.steps if candidate.written else ()
        reasoning = fold(" ".join(step.text for step in steps))
        if not reasoning or self._said.add(reasoning):
            return None
        return Rejection(self.step, "same_as_another_row", reasoning)


def _key(word: int, size: int) -> int:
    """A word and a number of words, as one number."""
    return word << _SIZE_BITS | size


def _mask(words: Iterable[int]) -> int:
    """A bit for each word, by the last six binary digits of its number."""
    mask = 0
    for word in words:
        mask |= 1 << (word & 63)
    return mask


def _bare(text: str) -> str:
    return fold(text).casefold()
