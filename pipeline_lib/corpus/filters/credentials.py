"""Credentials that can be told by their form: each issuer's prefix and alphabet.

Passwords have no form. Guessing them by their entropy or by a name beside them would take hashes,
identifiers and examples out of every technical text, so that is not done.
"""

from __future__ import annotations

import base64
import binascii
import json
import re

from pipeline_lib.corpus.filters.detection import Detector

_BEFORE = r"(?<![A-Za-z0-9_-])"
_AFTER = r"(?![A-Za-z0-9_-])"
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/]{32,}")


def _is_jwt(match: re.Match[str]) -> bool:
    """Whether its header is JSON that names an algorithm (RFC 7515)."""
    header = match[0].partition(".")[0]
    try:
        decoded = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (binascii.Error, ValueError):
        return False
    return isinstance(decoded, dict) and "alg" in decoded


def _has_key_material(match: re.Match[str]) -> bool:
    """Not the dots of an example."""
    return bool(_BASE64_RUN.search(match["body"]))


def _mixes_letters_and_digits(match: re.Match[str]) -> bool:
    """As random strings of that length do, and names with hyphens do not."""
    value = match[0].rpartition("-")[2]
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _token(kind: str, hints: tuple[str, ...], pattern: str) -> Detector:
    return Detector(kind=kind, hints=hints, pattern=re.compile(_BEFORE + pattern + _AFTER))


SECRETS = (
    Detector(
        kind="private_key",
        hints=("PRIVATE KEY",),
        pattern=re.compile(
            r"-----BEGIN (?P<type>(?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?)-----"
            r"(?P<body>(?:[A-Za-z0-9+/=\s\\:,.()\"']|-(?!----)){32,20000}?)"
            r"(?:-----END (?P=type)-----|\Z|(?=\n\s*\n\s*\n))"
        ),
        is_valid=_has_key_material,
    ),
    Detector(
        kind="jwt",
        hints=("eyJ",),
        pattern=re.compile(
            _BEFORE + r"eyJ[\w-]{8,4000}\.eyJ[\w-]{8,8000}\.[\w-]{16,2000}" + _AFTER, re.ASCII
        ),
        is_valid=_is_jwt,
    ),
    _token("aws_key", ("AKIA", "ASIA"), r"(?:AKIA|ASIA)[A-Z2-7]{16}"),
    Detector(
        kind="aws_key",
        hints=("secret", "SECRET", "Secret"),
        pattern=re.compile(
            r"secret_?(?:access_?)?key[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
            r"(?P<value>(?=[^\n]{0,39}\d)(?=[^\n]{0,39}[A-Z])[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
            re.IGNORECASE,
        ),
    ),
    _token("github_token", tuple(f"gh{use}_" for use in "pousr"), r"gh[pousr]_[A-Za-z0-9]{36,251}"),
    _token("github_token", ("github_pat_",), r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _token("gitlab_token", ("glpat-", "gldt-", "glrt-"), r"gl(?:pat|dt|rt)-[A-Za-z0-9_-]{20,64}"),
    _token("slack_token", ("xox",), r"xox[abeoprs]-(?:\d-)?\d{6,16}-[A-Za-z0-9-]{16,200}"),
    _token("slack_token", ("xapp-",), r"xapp-\d-[A-Z0-9]{6,16}-\d{6,16}-[a-f0-9]{32,128}"),
    _token(
        "slack_token",
        ("hooks.slack.com",),
        r"(?:https://)?hooks\.slack\.com/services/T[A-Z0-9]{6,16}/B[A-Z0-9]{6,16}/[A-Za-z0-9]{20,32}",
    ),
    Detector(
        kind="anthropic_key",
        hints=("sk-ant-",),
        pattern=re.compile(_BEFORE + r"sk-ant-[\w]{2,12}-[\w-]{24,200}", re.ASCII),
    ),
    Detector(
        kind="openai_key",
        hints=("sk-",),
        pattern=re.compile(
            _BEFORE
            + r"sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,200}|[A-Za-z0-9]{32,200})"
            + _AFTER
        ),
        is_valid=_mixes_letters_and_digits,
    ),
    _token("google_key", ("AIza",), r"AIza[A-Za-z0-9_-]{35}"),
    _token("google_key", ("GOCSPX-",), r"GOCSPX-[A-Za-z0-9_-]{28}"),
    _token("stripe_key", ("k_live_",), r"[sr]k_live_[A-Za-z0-9]{16,247}"),
    _token("huggingface_token", ("hf_",), r"hf_[A-Za-z]{34}"),
    _token("npm_token", ("npm_",), r"npm_[A-Za-z0-9]{36}"),
    _token("pypi_token", ("pypi-",), r"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,500}"),
)
"""What `FilterConfig.secrets` is about."""
