"""Which East Asian encoding a text is in.

Their byte ranges overlap, so most of them decode most texts. But each standard puts its common
characters into a few rows, and a text consists of these: read in the wrong encoding, its characters
come from all over the place. An encoding is scored by the share of common characters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping


def _is_kana(character: str) -> bool:
    return "\u3041" <= character <= "\u30fe"


def _leads_in(encoding: str, first: int, last: int) -> Callable[[str], bool]:
    """Whether a character's first byte lies in the rows of the standard's common characters."""

    def is_common(character: str) -> bool:
        try:
            return first <= character.encode(encoding)[0] <= last
        except UnicodeEncodeError:
            return False

    return is_common


_KANJI = _leads_in("euc_jp", 0xB0, 0xCF)  # JIS X 0208, level 1
_COMMON: Mapping[str, Callable[[str], bool]] = {
    "cp932": lambda character: _is_kana(character) or _KANJI(character),
    "euc_jp": lambda character: _is_kana(character) or _KANJI(character),
    "cp949": _leads_in("euc_kr", 0xB0, 0xC8),  # KS X 1001, Hangul
    "gb18030": _leads_in("gb2312", 0xB0, 0xD7),  # GB/T 2312, level 1; contains the rows above
    "big5": _leads_in("big5", 0xA4, 0xC6),  # level 1
}
EAST_ASIAN_ENCODINGS = tuple(_COMMON)
_JAPANESE = ("cp932", "euc_jp")
_WITHOUT_KANA = 0.5
"""Japanese without any kana is a list of names at most."""


def east_asian_encodings_by_fit(data: bytes) -> list[str]:
    """East Asian encodings that can decode `data`, the best fit first; equal fits as listed."""
    fits: dict[str, float] = {}
    for encoding in _COMMON:
        try:
            fits[encoding] = _fit(data.decode(encoding), encoding)
        except UnicodeDecodeError:
            continue
    return sorted(fits, key=lambda encoding: -fits[encoding])


def _fit(text: str, encoding: str) -> float:
    telling = [character for character in text if character.isalpha() and not character.isascii()]
    fit = sum(map(_COMMON[encoding], telling)) / max(len(telling), 1)
    is_doubtful = encoding in _JAPANESE and not any(map(_is_kana, telling))
    return fit * _WITHOUT_KANA if is_doubtful else fit
