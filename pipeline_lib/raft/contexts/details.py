"""The details of a text that can be wrong: numbers, dates, names, and whether something is so.

Details are found by their form alone, without a model. What a form does not show (that a lower-case
word is a name) is not found; what is found is what it says, so a changed passage stays readable.
Months, weekdays, number words and negations are English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from pipeline_lib.raft.wording import STOP_WORDS

DetailKind = Literal["number", "date", "name", "negation"]

NUMBER_WORDS = tuple("two three four five six seven eight nine ten eleven twelve".split())
MONTHS = tuple(
    "January February March April May June July August September October November December".split()
)
WEEKDAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())

_MONTH = "|".join(MONTHS)
_NUMBER = re.compile(r"(?<![\w.,/:@#-])\d{1,12}(?:,\d{3})*(?:\.\d+)?(?![\w/:]|[.,-]\d)")
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(NUMBER_WORDS)})\b", re.IGNORECASE)
_DATE = re.compile(
    rf"\b\d{{4}}-\d{{2}}-\d{{2}}\b|(?<=\d )(?:{_MONTH})\b|\b(?:{_MONTH})(?= \d)"
    rf"|\b(?:{'|'.join(WEEKDAYS)})s?\b"
)
_YEAR = re.compile(r"1[5-9]\d\d|20\d\d")
_WORD_OF_NAME = r"[A-Z][\w\u2019'-]*(?<![\u2019'-])"
_NAME = re.compile(rf"(?<![\w.\u2019'-]){_WORD_OF_NAME}(?: {_WORD_OF_NAME})*")
_LEADING_STOP_WORDS = re.compile(rf"(?:(?:{'|'.join(sorted(STOP_WORDS))})(?: |\Z))+", re.IGNORECASE)
_IDENTIFIER = re.compile(
    r"`[^`\s]{1,40}`|(?<![\w.])[a-z]\w*(?:_\w+|\(\))(?:\(\))?(?![\w(])|\"\w{1,40}\""
)
"""Names of code: `so`, like_this, or_this(), and "short" literals."""
_SENTENCE_START = re.compile(
    r"(?:\A|[.!?:]['\")\]\u201d\u2019]*\s|\n)[\s*\u2022+\u201c\u2018\"'(\[-]*\Z"
)
_LOOKBEHIND_CHARS = 8
_TURNED_ROUND = "is are was were can could will would should must may might"
"""Verbs that a "not" can be put behind."""
_CAN_BE_NEGATED = f"{_TURNED_ROUND} does do did has have had"
_NEGATED = re.compile(
    rf"\b(?:{'|'.join(_CAN_BE_NEGATED.split())})(?: not|n[\u2019']t)\b"
    r"|\bcannot\b|\b(?:can|won)[\u2019']t\b",
    re.IGNORECASE,
)
_PLAIN_HELPER = re.compile(
    rf"\b(?:{'|'.join(_TURNED_ROUND.split())})\b(?! not\b|[\u2019'])", re.IGNORECASE
)
_ALWAYS_NEVER = re.compile(r"\b(?:always|never)\b")
_IRREGULAR = {"can't": "can", "won't": "will"}


@dataclass(frozen=True)
class Detail:
    """Some words of a text that could be others."""

    kind: DetailKind
    start: int
    end: int
    text: str


def details_of(text: str) -> list[Detail]:
    """The details of a text, in order; of two that overlap the first found counts."""
    found: list[Detail] = []
    taken = bytearray(len(text))
    for detail in (*_dates(text), *_numbers(text), *_names(text), *_negations(text)):
        if not any(taken[detail.start : detail.end]):
            taken[detail.start : detail.end] = b"\1" * (detail.end - detail.start)
            found.append(detail)
    return sorted(found, key=lambda detail: detail.start)


def names_of(text: str) -> list[str]:
    """The names of a text, each as often as it stands there."""
    return [detail.text for detail in details_of(text) if detail.kind == "name"]


def shape_of(name: str) -> str:
    """What kind of name it looks like: `Aa Aa` for "Anna Smith", `a_a` for "max_rows"."""
    return "".join(mark for mark, _ in groupby(name, key=_mark))


def negated(words: str) -> str:
    """The words of a `negation` detail turned round: "is not" becomes "is", "can" "cannot"."""
    low = words.casefold().replace("\u2019", "'")
    if low in ("always", "never"):
        return "never" if low == "always" else "always"
    if low == "cannot":
        return _cased("can", words)
    if low in _IRREGULAR:
        return _cased(_IRREGULAR[low], words)
    if low.endswith((" not", "n't")):
        return re.sub(r"(?: not|n['\u2019]t)\Z", "", words, flags=re.IGNORECASE)
    return _cased("cannot", words) if low == "can" else f"{words} not"


def is_year(number: str) -> bool:
    """Whether a number reads as a year."""
    return _YEAR.fullmatch(number) is not None


def _dates(text: str) -> Iterator[Detail]:
    for match in _DATE.finditer(text):
        yield Detail("date", match.start(), match.end(), match.group())


def _numbers(text: str) -> Iterator[Detail]:
    for pattern in (_NUMBER, _NUMBER_WORD):
        for match in pattern.finditer(text):
            kind: DetailKind = "date" if is_year(match.group()) else "number"
            yield Detail(kind, match.start(), match.end(), match.group())


def _names(text: str) -> Iterator[Detail]:
    for match in _IDENTIFIER.finditer(text):
        yield Detail("name", match.start(), match.end(), match.group())
    for match in _NAME.finditer(text):
        leading = _LEADING_STOP_WORDS.match(match.group())
        start = match.start() + (leading.end() if leading else 0)
        name = text[start : match.end()]
        opens = _SENTENCE_START.search(text, max(0, start - _LOOKBEHIND_CHARS), start)
        if " " in name or (len(name) > 1 and not opens):  # a single word may owe its capital to it
            yield Detail("name", start, match.end(), name)


def _negations(text: str) -> Iterator[Detail]:
    for pattern in (_NEGATED, _ALWAYS_NEVER, _PLAIN_HELPER):
        for match in pattern.finditer(text):
            yield Detail("negation", match.start(), match.end(), match.group())


def _mark(char: str) -> str:
    if char.isdigit():
        return "0"
    if char.isalpha():
        return "A" if char.isupper() else "a"
    return char


def _cased(word: str, like: str) -> str:
    return word.capitalize() if like[:1].isupper() else word
