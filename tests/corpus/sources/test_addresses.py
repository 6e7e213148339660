"""Which addresses are public, and which texts are URLs."""

from __future__ import annotations

import pytest

from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.sources.addresses import (
    checked_addresses,
    is_public,
    normal_url,
    resolve,
    without_credentials,
)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",  # carriers' own networks
        "169.254.169.254",  # where clouds hand out credentials
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_one_private_address_among_others_is_enough_to_refuse() -> None:
    with pytest.raises(RefusedInputError, match=r"evil\.test is 10\.0\.0\.1") as caught:
        checked_addresses(
            "evil.test", 80, lambda host, port: ["8.8.8.8", "10.0.0.1"], allow_private=False
        )
    assert caught.value.reason is DropReason.FORBIDDEN_ADDRESS


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "localhost"])
def test_other_ways_to_write_loopback_are_refused(host: str) -> None:
    with pytest.raises(RefusedInputError, match="not a public address"):
        checked_addresses(host, 80, resolve, allow_private=False)


def test_a_name_without_address_is_a_failure() -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(RefusedInputError, match=r"'gone\.test' has no address"):
        checked_addresses("gone.test", 80, nowhere, allow_private=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://Example.ORG", "https://example.org/"),
        (" https://example.org/a b?q=é#part ", "https://example.org/a%20b?q=%C3%A9"),
        ("HTTP://example.org:80/x", "http://example.org/x"),
        ("https://example.org:8443/x", "https://example.org:8443/x"),
        ("https://bücher.example/ü%20x", "https://xn--bcher-kva.example/%C3%BC%20x"),
        ("http://[::1]:8000/", "http://[::1]:8000/"),
    ],
)
def test_a_url_has_one_form(text: str, expected: str) -> None:
    assert normal_url(text) == expected
    assert normal_url(expected) == expected


@pytest.mark.parametrize(
    "text",
    ["ftp://host/x", "file:///etc/passwd", "javascript:alert(1)", "/relative", "", "https://",
     "http://[::1", "http://host:99999/", "https://user:hidden@host/", "https://h/" + "x" * 3000],
)  # fmt: skip
def test_what_is_not_fetched(text: str) -> None:
    with pytest.raises(RefusedInputError) as caught:
        normal_url(text)
    assert "hidden" not in caught.value.detail


def test_credentials_are_not_shown() -> None:
    assert without_credentials("https://user:pass@host/a@b") == "https://host/a@b"
