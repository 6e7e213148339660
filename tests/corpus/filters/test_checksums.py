"""Checksums against published examples and against any wrong digit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.corpus.filters.checksums import is_card_number, is_iban, passes_luhn

IBANS = [
    "DE89370400440532013000",
    "GB82WEST12345698765432",
    "FR1420041010050500013M02606",
    "CH9300762011623852957",
    "NO9386011117947",
    "MT84MALT011000012345MTLCAST001S",
]


def test_luhn_of_the_worked_example() -> None:
    """7992739871 has check digit 3: doubled from the right 2, 7, 16, 9, 6, … they sum to 67."""
    assert [digit for digit in range(10) if passes_luhn(f"7992739871{digit}")] == [3]


@pytest.mark.parametrize(
    "number",
    ["4111111111111111", "4222222222222", "378282246310005", "30569309025904", "6011111111111117"],
)
def test_card_numbers_that_issuers_publish_for_tests(number: str) -> None:
    assert is_card_number(number)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        ("9111111111111115", "no issuer has this prefix"),
        ("411111111111116", "fifteen digits, but Visa has 13, 16 or 19"),
        ("4111111111111112", "wrong check digit"),
        ("0000000000000000", "one digit only"),
    ],
)
def test_other_numbers_are_no_cards(number: str, why: str) -> None:
    assert not is_card_number(number), why


@pytest.mark.parametrize("iban", IBANS)
def test_ibans_of_the_registry(iban: str) -> None:
    assert is_iban(iban)
    assert not is_iban(iban[:-1])
    assert not is_iban("XX" + iban[2:])


@given(st.sampled_from(IBANS), st.data())
def test_no_single_wrong_digit_passes(iban: str, data: st.DataObject) -> None:
    position = data.draw(st.sampled_from([n for n, c in enumerate(iban) if c.isdigit()]))
    digit = data.draw(st.sampled_from(sorted(set("0123456789") - {iban[position]})))
    assert not is_iban(iban[:position] + digit + iban[position + 1 :])
