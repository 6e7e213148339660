"""Personal data with a form of its own: addresses, numbers. Names have none and are not found."""

from __future__ import annotations

import ipaddress
import re

from pipeline_lib.corpus.filters.checksums import iban_length, is_card_number, is_iban
from pipeline_lib.corpus.filters.detection import Detector

_FILE_SUFFIXES = frozenset("avif bmp css gif ico jpeg jpg js json md mp4 pdf png svg webp".split())
"""`logo@2x.png` is a picture."""
_REMOTE_USERS = frozenset({"git", "hg", "svn"})
"""`git@host:path` names a repository."""
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:version|versions|release|ver|v|build|firmware|section|chapter|rev|revision)"
    r"|[§=~<>^@]|[A-Za-z)]/)[ \t.:]*$",
    re.IGNORECASE,
)
_CONTEXT_CHARS = 16
_UNREVEALING_IPV6 = ("2", "3", "fc", "fd", "fe8", "fe9", "fea", "feb")
"""First digits, in four, of global, local and link-local unicast addresses; there are no others
in use, and `face::add` is a name in C++."""
_SEPARATORS = re.compile(r"[ \-.()/\u00a0\u2011]")
_GAP = r"[ .\-/\u00a0\u2011]"
_END = r"(?![\w-]|[.,]\d)"
"""A longer number, a decimal fraction or an identifier does not go on behind it."""
_COUNTRY_CODE = (
    r"(?:1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|(?:2[1-69]|3[578]|42|5[09]|6[789]|8[0578]|9[679])\d)"
)
"""Calling codes of ITU-T E.164."""
_MIN_PHONE_DIGITS, _MAX_PHONE_DIGITS = 8, 15


def _digits(value: str) -> str:
    return _SEPARATORS.sub("", value)


def _is_email(match: re.Match[str]) -> bool:
    local, _, domain = match[0].rpartition("@")
    if domain.rpartition(".")[2].lower() in _FILE_SUFFIXES:
        return False
    return not (local in _REMOTE_USERS and match.string[match.end() : match.end() + 1] == ":")


def _is_ipv4(match: re.Match[str]) -> bool:
    """Not a version, and not an address that every machine has."""
    octets = match[0].split(".")
    if all(len(octet) == 1 for octet in octets):
        return False
    if _VERSION_BEFORE.search(match.string, max(0, match.start() - _CONTEXT_CHARS), match.start()):
        return False
    try:
        address = ipaddress.IPv4Address(match[0])
    except ValueError:
        return False
    is_mask = octets[0] == "255"
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or is_mask)


def _is_ipv6(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return False
    return address.exploded.startswith(_UNREVEALING_IPV6)


def _is_card(match: re.Match[str]) -> bool:
    return is_card_number(_digits(match[0]))


def _is_iban(match: re.Match[str]) -> bool:
    return is_iban(_SEPARATORS.sub("", match["value"]))


def _is_international_phone(match: re.Match[str]) -> bool:
    digits = _digits(match[0]).lstrip("+")
    if digits.startswith("1"):  # North America: ten digits, the area code begins with 2 to 9
        return len(digits) == 11 and digits[1] in "23456789"
    return _MIN_PHONE_DIGITS <= len(digits) <= _MAX_PHONE_DIGITS


def _iban_pattern() -> re.Pattern[str]:
    """Per length of what follows country and check digits: so many characters, spaced or not."""
    countries: dict[int, list[str]] = {}
    for first in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        for second in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            if length := iban_length(first + second):
                countries.setdefault(length, []).append(first + second)
    forms = (
        rf"(?:{'|'.join(codes)})\d\d(?:[ \-]?[A-Z0-9]){{{length - 4}}}"
        for length, codes in sorted(countries.items())
    )
    return re.compile(rf"(?<![A-Za-z0-9])(?P<value>{'|'.join(forms)})(?![A-Za-z0-9])")


PERSONAL_DATA = (
    Detector(
        kind="email",
        hints=("@",),
        pattern=re.compile(
            r"(?<![\w.+%-])[\w][\w.+%-]{0,63}@(?:[\w](?:[\w-]{0,61}[\w])?\.){1,8}[^\W\d_]{2,24}"
            r"(?![\w-])"
        ),
        is_valid=_is_email,
    ),
    Detector(kind="iban", pattern=_iban_pattern(), is_valid=_is_iban),
    Detector(
        kind="card_number",
        pattern=re.compile(
            r"(?<![\w.+-])(?:\d{13,19}|\d{4}(?P<gap>[ -])\d{4}(?P=gap)\d{4}(?P=gap)\d{4}"
            r"(?:(?P=gap)\d{3})?|\d{4}(?P<six>[ -])\d{6}(?P=six)\d{4,5})" + _END
        ),
        is_valid=_is_card,
    ),
    Detector(
        kind="ip_address",
        hints=(":",),
        pattern=re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]{1,4}:)[0-9A-Fa-f:]{4,39}(?![\w:])"),
        is_valid=_is_ipv6,
    ),
    Detector(
        kind="ip_address",
        pattern=re.compile(
            r"(?<![\w.-])(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}"
            rf"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d){_END}"
        ),
        is_valid=_is_ipv4,
    ),
    Detector(
        kind="phone",
        hints=("+",),
        pattern=re.compile(
            rf"(?<![\w+])\+{_COUNTRY_CODE}(?:{_GAP}?\(\d{{1,5}}\))?(?:{_GAP}?\d){{5,13}}+{_END}"
        ),
        is_valid=_is_international_phone,
    ),
    Detector(
        kind="phone",
        pattern=re.compile(
            r"(?<![\w.+-])(?:\([2-9]\d\d\) ?\d{3}[-. ]\d{4}"
            rf"|[2-9]\d\d(?P<gap>[-.])\d{{3}}(?P=gap)\d{{4}}){_END}"
        ),
    ),
    Detector(
        kind="phone",
        pattern=re.compile(
            r"\b(?:tel|phone|telephone|telefon|téléphone|teléfono|telefono|mobile|mobil|cell|fax)"
            r"(?:(?:\.:?|:|:? no\.?:?| number:)[ \t]{0,3}|[ \t]{1,3}(?=[(0]))"
            r"(?!(?:19|20)\d\d[ -](?:19|20)\d\d)"
            rf"(?P<value>\(?\d(?:[ .\-/()\u00a0\u2011]{{0,2}}\d){{6,14}}){_END}",
            re.IGNORECASE,
        ),
    ),
)
"""What `FilterConfig.personal_data` is about, in the order in which it is looked for."""
