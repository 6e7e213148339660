"""Personal data: found where it is, and not where something only looks like it."""

from __future__ import annotations

import time

import pytest

from pipeline_lib.config.corpus import FilterConfig
from pipeline_lib.corpus.filters import redact

CONFIG = FilterConfig(personal_data="redact", secrets="keep")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.example.co.uk.", "write to [EMAIL]."),
        ("<mailto:müller@bücher.example>", "<mailto:[EMAIL]>"),
        ("a@b.io, c_d@e-f.org", "[EMAIL], [EMAIL]"),
        ("DE89 3704 0044 0532 0130 00 today", "[IBAN] today"),
        ("GB82WEST12345698765432", "[IBAN]"),
        ("FR14 2004 1010 0505 0001 3M02 606 BIC", "[IBAN] BIC"),
        ("NO93-8601-1117-947", "[IBAN]"),
        ("Visa 4111 1111 1111 1111!", "Visa [CARD_NUMBER]!"),
        ("4111-1111-1111-1111", "[CARD_NUMBER]"),
        ("5555555555554444 2223003122003222", "[CARD_NUMBER] [CARD_NUMBER]"),
        ("3782 822463 10005", "[CARD_NUMBER]"),
        ("from 203.0.113.7:8080", "from [IP_ADDRESS]:8080"),
        ("http://10.11.12.13/x", "http://[IP_ADDRESS]/x"),
        ("at 192.168.0.1.", "at [IP_ADDRESS]."),
        ("2001:db8::ff00:42:8329", "[IP_ADDRESS]"),
        ("[fe80::1]:443", "[[IP_ADDRESS]]:443"),
        ("+49 30 901820", "[PHONE]"),
        ("+1 (212) 555-0123", "[PHONE]"),
        ("+14155552671, +44 20 7946 0958", "[PHONE], [PHONE]"),
        ("(555) 123-4567 or 555-123-4567", "[PHONE] or [PHONE]"),
        ("Tel.: 030 1234567", "Tel.: [PHONE]"),
        ("phone: 089/1234-567", "phone: [PHONE]"),
        ("Fax 030 1234567", "Fax [PHONE]"),
        ("😀 漢字 jane@example.com 漢字", "😀 漢字 [EMAIL] 漢字"),
    ],
)
def test_values_are_replaced_by_their_kind(text: str, expected: str) -> None:
    redacted, found = redact(text, CONFIG)
    assert redacted == expected
    assert found.total() == expected.count("[") - expected.count("[[")


@pytest.mark.parametrize(
    "text",
    [
        # addresses that are none
        "git@github.com:org/repo.git",
        "logo@2x.png and user@localhost and @decorator and pkg@1.2.3",
        # versions, sections, object identifiers, and addresses that every machine has
        "version 1.22.33.44, v10.20.30.40, package==1.22.333.4, Chrome/99.0.45.12",
        "section 3.2.1.4 and 1.3.6.1.4.1 and 10.0.19041.1234.5 and 300.1.1.1",
        "127.0.0.1 0.0.0.0 255.255.255.0 224.0.0.1",
        "std::vector abc::def face::add a::b ::1 :: 12:34:56 aa:bb:cc:dd:ee:ff",
        # checksums that are wrong
        "4111 1111 1111 1112 and 1234567812345678",
        "DE88 3704 0044 0532 0130 00 and ZZ82WEST12345698765432",
        "DE89 3704 0044 0532 0130",
        # dates, books, papers, hashes, amounts, times
        "2024-01-01T00:00:00+0200, 01.02.2024, 2020-2024, 20240101123000",
        "ISBN 978-3-16-148410-0, 9783161484100, 0-306-40615-2, ISSN 2049-3630",
        "doi:10.1145/3292500.3330701 arXiv:2403.10131",
        "d41d8cd98f00b204e9800998ecf8427e 550e8400-e29b-41d4-a716-446655440000",
        "1609459200000000000 3.14159265358979323846 1,234,567.89 0.4111111111111111",
        "+100 200 x = +5 (100) 200 1,234 and a+12345678901 and 1+49301234567",
        "phone 12 pro, telephone 1876, cell 4 5, fax 1990-1995",
        "555-123-45678 and 1555-123-4567 and 123-123-4567",
    ],
)
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    assert redact(text, CONFIG) == (text, {})


def test_counts_are_by_kind() -> None:
    _, found = redact("a@b.io c@d.io 203.0.113.7 2001:db8::1 +49 30 901820", CONFIG)
    assert found == {"email": 2, "ip_address": 2, "phone": 1}


@pytest.mark.parametrize("unit", ["1", "1 ", "+49", "a@", "a@a.", "a.", "ab:", "DE12 ", "(1", "-"])
def test_time_grows_with_the_text_not_with_its_square(unit: str) -> None:
    start = time.process_time()
    redact(unit * (200_000 // len(unit)), CONFIG)
    assert time.process_time() - start < 2
