"""From bytes to text.

UTF-8 is believed when the bytes are valid UTF-8, which other encodings almost never are by chance.
For the rest charset-normalizer ranks the encodings found in the wild (those of the WHATWG Encoding
Standard); left to all it knows it reads "café" in Latin-1 as two Chinese characters. Among the
Latin code pages, which it cannot tell apart, the languages' alphabets decide; among the East Asian
encodings, which it confuses in short texts, the standards' common characters.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.parsing.code_pages import LATIN_CODE_PAGES, latin_code_pages_by_fit
from pipeline_lib.corpus.parsing.east_asian import (
    EAST_ASIAN_ENCODINGS,
    east_asian_encodings_by_fit,
)

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with UTF-16's mark, so it is asked first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WESTERN = "cp1252"
_LEGACY_ENCODINGS = (
    *(f"cp{number}" for number in range(1250, 1259)),
    *("iso8859_2", "iso8859_5", "iso8859_6", "iso8859_7", "koi8_r", "koi8_u", "mac_roman"),
    *("cp866", "cp874", "cp932", "cp949", "euc_jp", "gb18030", "big5"),
)
_READ_AS_WESTERN = {"iso8859-1", "ascii"}
"""Names that pages use for cp1252 (WHATWG Encoding Standard, section 4.2)."""
_META_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_META_WINDOW_BYTES = 4096
_SAMPLE_BYTES = 256 * 1024
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MAX_CONTROL_FRACTION = 0.05


@dataclass(frozen=True)
class Decoded:
    """Text and the encoding it was read with."""

    text: str
    encoding: str


def decode(data: bytes, *, is_html: bool = False, charset: str | None = None) -> Decoded:
    """Decode by byte order mark, as UTF-8, by declaration, or by statistics.

    Args:
        data: all of it.
        is_html: whether the text may declare its encoding itself, as HTML pages do.
        charset: what a server declares; asked before the page.

    Raises:
        RefusedInputError: `binary` (NUL bytes, a PDF, more than 5 % control characters) or
            `unknown_encoding`.
    """
    decoded = _decode_marked(data) or _decode_unmarked(data, is_html, charset)
    num_controls = sum(1 for _ in _CONTROLS.finditer(decoded.text))
    if num_controls > _MAX_CONTROL_FRACTION * len(decoded.text):
        raise RefusedInputError(
            DropReason.BINARY, f"{num_controls} of {len(decoded.text)} characters are controls"
        )
    return decoded


def _decode_marked(data: bytes) -> Decoded | None:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            try:
                return Decoded(data.decode(encoding), encoding.removesuffix("-sig"))
            except UnicodeDecodeError as error:
                raise RefusedInputError(
                    DropReason.UNKNOWN_ENCODING,
                    f"has the byte order mark of {encoding}, but {error.reason} at byte "
                    f"{error.start}",
                ) from error
    return None


def _decode_unmarked(data: bytes, is_html: bool, charset: str | None) -> Decoded:
    position = data.find(b"\0")
    if position >= 0:
        raise RefusedInputError(DropReason.BINARY, f"a NUL byte at position {position}")
    if data.startswith(b"%PDF-"):
        raise RefusedInputError(DropReason.BINARY, "a PDF under another name")
    candidates = ["utf-8"]
    if charset:
        candidates += _known_encoding(charset)
    if is_html and (declaration := _META_CHARSET.search(data[:_META_WINDOW_BYTES])):
        candidates += _known_encoding(declaration[1].decode("ascii", "replace"))
    decoded = _first_that_decodes(data, candidates)
    # Ranking costs far more than decoding, so it is only done when it must be.
    decoded = decoded or _first_that_decodes(data, _ranked_encodings(data))
    if decoded is None:
        raise RefusedInputError(
            DropReason.UNKNOWN_ENCODING, "neither UTF-8 nor another known text encoding"
        )
    return decoded


def _first_that_decodes(data: bytes, encodings: list[str]) -> Decoded | None:
    for encoding in encodings:
        try:
            return Decoded(data.decode(encoding), encoding)
        except UnicodeDecodeError:
            continue
    return None


def _known_encoding(charset: str) -> list[str]:
    try:
        name = codecs.lookup(charset).name
    except LookupError:
        return []
    if name in _READ_AS_WESTERN:
        return [_WESTERN]
    return [encoding for encoding in _LEGACY_ENCODINGS if codecs.lookup(encoding).name == name]


def _ranked_encodings(data: bytes) -> list[str]:
    """Encodings by likelihood, judged on the lines that are not ASCII."""
    from charset_normalizer import from_bytes

    lines = b"\n".join(line for line in data.split(b"\n") if not line.isascii())
    telling = lines[:_SAMPLE_BYTES]
    matches = list(from_bytes(telling, cp_isolation=list(_LEGACY_ENCODINGS)))
    ranked = [match.encoding for match in matches]
    best = {
        encoding
        for match in matches
        if (match.chaos, match.coherence) == (matches[0].chaos, matches[0].coherence)
        for encoding in match.could_be_from_charset
    }
    if not best.isdisjoint(LATIN_CODE_PAGES):
        return latin_code_pages_by_fit(telling) + ranked
    if not best.isdisjoint(EAST_ASIAN_ENCODINGS):
        return east_asian_encodings_by_fit(telling) + ranked
    return ranked
