"""Secrets: told by the form that their issuers gave them.

The samples are put together from parts so that scanners do not take this file for a leak.
"""

from __future__ import annotations

import base64
import time

import pytest

from pipeline_lib.config.corpus import FilterConfig
from pipeline_lib.corpus.filters import redact

CONFIG = FilterConfig()
LETTERS = "aBcDeFgHiJkLmNoPqRsTuVwXyZ"
MIXED = "a1B2c3D4e5F6g7H8i9J0" * 4
HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
CLAIMS = base64.urlsafe_b64encode(b'{"sub":"1234567890"}').decode().rstrip("=")
DASHES = "-" * 5


def key_block(body: str, kind: str = "RSA PRIVATE KEY") -> str:
    return f"{DASHES}BEGIN {kind}{DASHES}\n{body}\n{DASHES}END {kind}{DASHES}"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("AKIA" + "IOSFODNN7EXAMPLE", "aws_key"),
        ("ghp_" + MIXED[:36], "github_token"),
        ("github_pat_" + MIXED[:22] + "_" + MIXED[:59], "github_token"),
        ("glpat-" + MIXED[:20], "gitlab_token"),
        ("xoxb-" + "123456789012-1234567890123-" + LETTERS[:24], "slack_token"),
        ("sk-" + MIXED[:48], "openai_key"),
        ("sk-proj-" + MIXED[:40], "openai_key"),
        ("sk-ant-" + "api03-" + MIXED[:40], "anthropic_key"),
        ("AIza" + MIXED[:35], "google_key"),
        ("sk_live_" + MIXED[:24], "stripe_key"),
        ("hf_" + (LETTERS * 2)[:34], "huggingface_token"),
        ("npm_" + MIXED[:36], "npm_token"),
        (f"{HEADER}.{CLAIMS}.{MIXED[:43]}", "jwt"),
        (key_block(MIXED[:64] + "\n" + MIXED[:64]), "private_key"),
        (key_block("Proc-Type: 4,ENCRYPTED\n\n" + MIXED[:64], "EC PRIVATE KEY"), "private_key"),
        (key_block(MIXED[:64] + r"\n" + MIXED[:64], "OPENSSH PRIVATE KEY"), "private_key"),
    ],
)
def test_secrets_are_replaced_by_their_kind(value: str, kind: str) -> None:
    redacted, found = redact(f'token = "{value}"  # 漢字', CONFIG)
    assert redacted == f'token = "[{kind.upper()}]"  # 漢字'
    assert found == {kind: 1}


def test_of_a_named_aws_secret_the_value_goes_and_the_name_stays() -> None:
    value = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
    redacted, found = redact(f"aws_secret_access_key = {value}\n", CONFIG)
    assert redacted == "aws_secret_access_key = [AWS_KEY]\n"
    assert found == {"aws_key": 1}


def test_a_private_key_that_is_cut_off_goes_to_the_end() -> None:
    text = key_block(MIXED[:64] + "\n" + MIXED[:64]).partition(f"\n{DASHES}END")[0]
    assert redact(f"before\n{text}", CONFIG) == ("before\n[PRIVATE_KEY]", {"private_key": 1})


@pytest.mark.parametrize(
    "text",
    [
        "sk-circle-fade-dot-something-long-name, sk-learn, task-0123456789012345678901234567890",
        "AKIA AKIAshort XAKIAIOSFODNN7EXAMPLE AKIAIOSFODNN7EXAMPLELONGER",
        "ghp_short glpat-short xoxo-hugs-and-kisses hf_model AIzaShort npm_config_registry",
        "eyJ.eyJ.abc and eyJub3RqcyI.eyJub3RqcyI." + MIXED[:43],
        key_block("..."),
        key_block("your key here"),
        key_block(MIXED[:64], "PUBLIC KEY"),
        key_block(MIXED[:64], "CERTIFICATE"),
        'secret_key = os.environ["SECRET_KEY"]',
        "secret_key = " + "a" * 40,
        "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709, password = hunter2, api_key=None",
        "sk-" + "a" * 48,
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert redact(text, CONFIG) == (text, {})


@pytest.mark.parametrize(
    "unit", [f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n", "eyJ", f"eyJ{'a' * 20}.", "sk-", "secret_key="]
)
def test_time_grows_with_the_text_not_with_its_square(unit: str) -> None:
    start = time.process_time()
    redact(unit * (200_000 // len(unit)), CONFIG)
    assert time.process_time() - start < 2
