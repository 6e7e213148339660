"""Which single-byte Latin code page a text is in.

Nearly every byte is a letter in each of them, so statistics over bytes cannot tell cp1250 from
cp1252 in a paragraph of text. Languages can: a text uses the accented letters of one of them. A
page is scored by the share of its non-ASCII characters that belong to its best-fitting language.
"""

from __future__ import annotations

from collections import Counter

_WESTERN = (
    "éïñ£±µ¹²³¼½¾",  # English: loan words, units, footnote marks
    "äöüß",  # German
    "àâæçéèêëîïôœùûüÿ",  # French
    "áéíñóúü¿¡ªº",  # Spanish
    "àáâãçéêíóôõú",  # Portuguese
    "àèéìíîòóùú",  # Italian
    "åäöé",  # Swedish, Finnish
    "æøåéóôò",  # Danish, Norwegian
    "éëïóüèêö",  # Dutch
    "áðéíóúýþæö",  # Icelandic
    "àçèéíïòóúü·",  # Catalan
)
_CENTRAL = (
    "ąćęłńóśźż",  # Polish
    "áčďéěíňóřšťúůýž",  # Czech
    "áäčďéíĺľňóôŕšťúýž",  # Slovak
    "áéíóöőúüű",  # Hungarian
    "čćđšž",  # Croatian, Slovene
    "ăâîşţ",  # Romanian
)
LATIN_CODE_PAGES: dict[str, tuple[str, ...]] = {
    "cp1252": _WESTERN,
    "cp1250": _CENTRAL,
    "iso8859_2": _CENTRAL,
    "cp1254": ("çğıİöşüâîû",),  # Turkish
    "cp1257": ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž"),  # Lithuanian, Latvian, Estonian
}
"""Code page to the non-ASCII letters of the languages it is used for, most common page first."""

_IN_ANY_LANGUAGE = frozenset(
    "\u00a0\u2013\u2014\u2018\u2019\u201a\u201c\u201d\u201e\u2020\u2021\u2022\u2026\u2030\u2039\u203a"
    "€™§©®«»°\u00d7÷"
)
"""Typographic marks, which say nothing about the language."""


def latin_code_pages_by_fit(data: bytes) -> list[str]:
    """Latin code pages that can decode `data`, the best fit first; equal fits by how common."""
    fits: dict[str, float] = {}
    for code_page, alphabets in LATIN_CODE_PAGES.items():
        try:
            fits[code_page] = _fit(data.decode(code_page), alphabets)
        except UnicodeDecodeError:
            continue
    return sorted(fits, key=lambda code_page: -fits[code_page])


def _fit(text: str, alphabets: tuple[str, ...]) -> float:
    counts = Counter(c for c in text if not c.isascii() and c not in _IN_ANY_LANGUAGE)
    if not counts:
        return 1.0
    best = max(
        sum(n for c, n in counts.items() if c in alphabet or c.lower() in alphabet)
        for alphabet in alphabets
    )
    return best / counts.total()
