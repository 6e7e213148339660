"""Relative shares by name, such as {"factual": 3, "how_why": 1}."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator

_LONGEST_NAME = 40


def _check(shares: Mapping[str, float]) -> dict[str, float]:
    for name, share in shares.items():
        is_name = name.replace("_", "").replace("-", "").isalnum() and len(name) <= _LONGEST_NAME
        if not is_name:
            raise ValueError(f"{name!r} is no name: letters, digits, '-' and '_' only")
        if not math.isfinite(share) or share < 0:
            raise ValueError(f"the share of {name!r} must be a number from 0 up, not {share}")
    if shares and not any(shares.values()):
        raise ValueError("at least one share must be above 0")
    return dict(shares)


Shares = Annotated[dict[str, float], AfterValidator(_check)]
"""Name to relative share: finite, not negative, and not all zero. May be empty."""


def check_names(shares: Mapping[str, float], known: Sequence[str], what: str) -> None:
    """Refuse names that stand for nothing.

    Raises:
        ValueError: with the names there are.
    """
    unknown = sorted(set(shares) - set(known))
    if unknown:
        raise ValueError(
            f"there are no {what} of kind {', '.join(unknown)}; kinds are {', '.join(known)}"
        )


def normalized(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares that add up to 1, those of 0 left out, in the order of their names."""
    total = sum(shares.values())
    return {name: shares[name] / total for name in sorted(shares) if shares[name] > 0}
