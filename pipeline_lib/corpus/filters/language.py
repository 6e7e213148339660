"""Which language a text is in, by py3langid and the model it brings along."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_SAMPLE_CHARS = 1_000
"""From the beginning and from the middle each: more does not make it surer."""
_MIN_SAMPLE_BYTES = 24
"""UTF-8: a few words in an alphabet, half a dozen characters of Chinese."""
_MIN_CONFIDENCE = 0.6
"""The model's probabilities are calibrated; below this it is wrong too often on short texts."""
_NO_LANGUAGE = "zxx"
_NOT_WORDS = re.compile(r"\S*[0-9_/\\@<>{}\[\]=#|`~^*+]\S*")
"""Code, links, numbers, markup."""


def identify_language(text: str) -> str:
    """ISO 639-1 code of the text's language; empty when the text is too short or unclear.

    The first call loads the model, which takes about a second.
    """
    sample = text[:_SAMPLE_CHARS]
    if len(text) > 3 * _SAMPLE_CHARS:
        middle = len(text) // 2
        sample += "\n" + text[middle : middle + _SAMPLE_CHARS]
    words = " ".join(_NOT_WORDS.sub(" ", sample).split())
    if len(words.encode("utf-8", "replace")) < _MIN_SAMPLE_BYTES:
        return ""
    language, confidence = _identifier().classify(words)
    is_sure = confidence >= _MIN_CONFIDENCE and language != _NO_LANGUAGE
    return str(language) if is_sure else ""


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    two_letters = [code for code in identifier.labels if len(code) == 2]
    identifier.set_languages([*two_letters, _NO_LANGUAGE])
    return identifier
