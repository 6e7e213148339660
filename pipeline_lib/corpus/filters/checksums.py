"""Checksums and ranges that tell a value of a kind from digits that look like one."""

from __future__ import annotations

_IBAN_LENGTHS = {
    country: int(length)
    for entry in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 "
        "DO28 EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 "
        "IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 "
        "MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SD18 SE24 SI19 "
        "SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
    ).split()
    for country, length in [(entry[:2], entry[2:])]
}
"""Characters of an IBAN by country (SWIFT IBAN registry)."""

_CARD_RANGES = (
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),
    ("300", "305", (14,)),  # Diners Club
    ("36", "36", (14,)),
    ("38", "39", (14,)),
    ("3528", "3589", (16,)),  # JCB
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),
    ("6011", "6011", (16, 19)),  # Discover
    ("644", "659", (16, 19)),
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
)
"""First and last issuer prefix, and the lengths of card numbers that begin so."""


def passes_luhn(digits: str) -> bool:
    """The Luhn formula (ISO/IEC 7812-1, annex B)."""
    doubled = (int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def is_card_number(digits: str) -> bool:
    """Whether a known issuer's card has this number: prefix, length and Luhn digit."""
    is_issued = any(
        first <= digits[: len(first)] <= last and len(digits) in lengths
        for first, last, lengths in _CARD_RANGES
    )
    return is_issued and len(set(digits)) > 1 and passes_luhn(digits)


def iban_length(country: str) -> int:
    """Characters of an IBAN of `country`; 0 for a code that has none."""
    return _IBAN_LENGTHS.get(country, 0)


def is_iban(compact: str) -> bool:
    """Whether the country's length and the check digits are right (ISO 13616, mod 97)."""
    if len(compact) != iban_length(compact[:2]):
        return False
    rearranged = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1
