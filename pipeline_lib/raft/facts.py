"""Facts: the sentences of a passage that can be asked about and quoted on their own.

A small teacher writes far better questions about one sentence than about a whole passage, and a
question made from a sentence brings its quote with it, verbatim by construction. (Measured with
the bundled model on Python's language reference, 24 passages x 4 first words: from the passage
most questions were about nothing in it, such as "When is the last day of the month?"; from one
sentence with its page's title most kept to its words.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.wording import CLOSING_MARKS, OPENING_MARKS, content_words

MIN_FACT_CHARS = 40
MAX_FACT_CHARS = 280
_MIN_CONTENT_WORDS = 4
_MIN_LETTER_SHARE = 0.82

_BREAK = re.compile(r"\n[ \t]*\n\s*|\n\s*(?:[*•+-]|\d+[.)])\s+")
"""Between paragraphs and list items."""
_END = re.compile(r"[.!?][\"'\u201d\u2019)\]]*(?=\s+[\"'\u201c\u2018(\[*`]*[A-Z0-9])")
_NOT_AN_END = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|etc|al|Mr|Mrs|Ms|Dr|St|No|Fig|Eq|Sec)|\b[A-Z])\.$"
)
_LEANING_STARTS = (
    "this these those it its they their them he she his her here both neither either same",
    "such so thus hence therefore however otherwise also but and or then instead similarly",
    "likewise moreover furthermore finally accordingly consequently additionally first second",
    "further still yet even rather again note see equivalent return returns should called used",
)
_LEANS_ON_OTHERS = re.compile(
    rf"(?:{'|'.join(' '.join(_LEANING_STARTS).split())}|as a result|in (?:contrast|other words)|"
    r"for (?:example|instance|other)|"
    r"(?:if|when|unless|while|once|after) (?:present|given|not?|so|it|they|he|she|one|either)|"
    r"in (?:that|those|both|either|all|other|earlier)|(?:in )?the (?:first|second|same|other)|"
    r"(?:changed|new|added|deprecated|removed) (?:in|since))\b",
    re.IGNORECASE,
)
_POINTS_ELSEWHERE = re.compile(
    r"\b(?:this|these|the (?:latter|former)|as follows|following|above|below|see also|"
    r"see section|shown (?:in|here)|there(?! (?:is|are|was|were|may|can|must|will)))\b",
    re.IGNORECASE,
)
_OPENING = re.compile(r"[\"'\u201c\u2018*`_]*[A-Z0-9]")
_LABEL = re.compile(r"(?:\S+ ){0,3}\S*:[\"'*]*(?= )")
"""What a sentence is about, in front of it: "Special attributes: …"."""
_PAIRS = (("(", ")"), ("[", "]"), ("“", "”"))


@dataclass(frozen=True)
class Fact:
    """One sentence of a chunk: `chunk.text[start:end]`."""

    chunk: Chunk
    start: int
    end: int

    @property
    def quote(self) -> str:
        """The sentence as the chunk has it, line breaks included."""
        return self.chunk.text[self.start : self.end]

    @property
    def text(self) -> str:
        """The sentence on one line."""
        return fold(self.quote)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence, without white space around; never across paragraphs."""
    spans = []
    for start, end in _split(text, 0, len(text), _BREAK):
        cuts = [
            match.end()
            for match in _END.finditer(text, start, end)
            if not _NOT_AN_END.search(text, start, match.end())
        ]
        for left, right in zip([start, *cuts], [*cuts, end], strict=True):
            trimmed = _trim(text, left, right)
            if trimmed is not None:
                spans.append(trimmed)
    return spans


def facts_of(chunk: Chunk, *, min_quote_chars: int = MIN_FACT_CHARS) -> list[Fact]:
    """The sentences of a chunk that stand on their own, in order."""
    found = [Fact(chunk, start, end) for start, end in sentence_spans(chunk.text)]
    return [
        fact for fact in found if len(fact.quote) >= min_quote_chars and stands_alone(fact.text)
    ]


def stands_alone(sentence: str) -> bool:
    """Whether a sentence (on one line) is a whole statement that needs no other to be understood.

    Prose of reasonable length that begins and ends as a sentence does, does not start with a word
    that leans on the sentence before, and does not point to text elsewhere.
    """
    prose = sum(char.isalpha() or char.isspace() for char in sentence)
    return (
        MIN_FACT_CHARS <= len(sentence) <= MAX_FACT_CHARS
        and prose >= _MIN_LETTER_SHARE * len(sentence)
        and sentence.rstrip(CLOSING_MARKS + ")]*").endswith(".")
        and _OPENING.match(sentence) is not None
        and _LABEL.match(sentence) is None
        and _LEANS_ON_OTHERS.match(sentence.lstrip(OPENING_MARKS + "*`_")) is None
        and _POINTS_ELSEWHERE.search(sentence) is None
        and "|" not in sentence
        and sentence.count('"') % 2 == 0
        and all(sentence.count(left) == sentence.count(right) for left, right in _PAIRS)
        and len(set(content_words(sentence))) >= _MIN_CONTENT_WORDS
    )


def _split(text: str, start: int, end: int, separator: re.Pattern[str]) -> list[tuple[int, int]]:
    pieces, position = [], start
    for match in separator.finditer(text, start, end):
        pieces.append((position, match.start()))
        position = match.end()
    return [*pieces, (position, end)]


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    piece = text[start:end]
    stripped = piece.strip()
    if not stripped:
        return None
    offset = start + len(piece) - len(piece.lstrip())
    return offset, offset + len(stripped)
