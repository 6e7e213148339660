"""Deterministic cleaning of document text.

Offsets of chunks and quotes count in the cleaned text, so cleaning is done once, before anything
else, and is idempotent. Unicode is composed (NFC) but never folded (NFKC would turn x² into x2 and
make quotes differ from their source).
"""

from __future__ import annotations

import re
import unicodedata

_NEWLINE = re.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")
_UNWANTED = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u2060\ufeff]")
"""Controls, and what is invisible inside words: soft hyphen, word joiner, zero-width no-break."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# The look-behind keeps a long run of spaces inside a line from costing its length squared.
_TRAILING_SPACE = re.compile(r"(?<![^\S\n])[^\S\n]++$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")
_SPACE = re.compile(r"\s+")
_MAX_TITLE_CHARS = 200


def clean_text(text: str) -> str:
    r"""Normalise `text` without changing its words.

    Newlines become `\n` (form feeds and line separators too), control characters and invisible
    characters inside words go, lone surrogates become U+FFFD, trailing spaces are stripped, three
    or more blank lines become two, blank lines at both ends go. Indentation stays.
    """
    text = _NEWLINE.sub("\n", text)
    text = _UNWANTED.sub("", text)
    text = _SURROGATE.sub("\ufffd", text)
    text = unicodedata.normalize("NFC", text)
    text = _TRAILING_SPACE.sub("", text)
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")


def clean_title(title: str) -> str:
    """One line, cleaned, at most 200 characters."""
    line = _SPACE.sub(" ", clean_text(title)).strip()
    return line if len(line) <= _MAX_TITLE_CHARS else line[: _MAX_TITLE_CHARS - 1].rstrip() + "…"
