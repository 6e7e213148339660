"""Whether two short answers say the same.

Words are compared as SQuAD does it. What that measure is blind to is looked at besides: two long
answers that differ in one number, or in a "not", share nearly all their words.
"""

from __future__ import annotations

import re
import string
from collections import Counter

from pipeline_lib.raft.wording import has_negation, words

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMERAL = re.compile(r"\d+(?:[.,]\d+)*")
_GROUPED = re.compile(r",(?=\d{3}(?!\d))")
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve".split()
    )
    if word != "one"  # "one of them" counts nothing
}
_VERDICTS = frozenset(("yes", "no"))


def normalize_answer(text: str) -> str:
    """Lower-case, without ASCII punctuation, English articles and extra spaces.

    The order of steps is that of the official SQuAD 1.1 evaluation script.
    """
    without_punctuation = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", without_punctuation).split())


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when both are equal after `normalize_answer`, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words, counted as bags (SQuAD 1.1).

    Two empty answers agree (1.0), as in the SQuAD 2.0 script.
    """
    predicted = normalize_answer(prediction).split()
    expected = normalize_answer(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    num_shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * num_shared / (len(predicted) + len(expected))


def agreement(answer: str, other: str) -> float:
    """How far two answers to one question agree, from 0 to 1: their token F1.

    But 0 where they contradict each other: by different numbers, one "yes" and one "no", or a
    negation that only one has. An answer may name fewer numbers than the other.
    """
    return 0.0 if contradict(answer, other) else token_f1(answer, other)


def contradict(answer: str, other: str) -> bool:
    """Whether numbers, "yes" or "no", or a negation set two answers against each other."""
    first, second = numbers(answer), numbers(other)
    if first and second and not (first <= second or second <= first):
        return True
    said, also_said = _verdict(answer), _verdict(other)
    if said or also_said:
        return bool(said and also_said) and said != also_said
    return has_negation(answer) != has_negation(other)


def numbers(text: str) -> set[str]:
    """The numbers in a text: "1,200 bytes in three parts" has 1200 and 3."""
    found = {_GROUPED.sub("", numeral) for numeral in _NUMERAL.findall(text)}
    return found | {_NUMBER_WORDS[word] for word in words(text) if word in _NUMBER_WORDS}


def _verdict(text: str) -> str:
    """The "yes" or "no" that an answer begins with; else empty."""
    first = normalize_answer(text).split(maxsplit=1)[:1]
    return first[0] if first and first[0] in _VERDICTS else ""
