"""How many distractors of which origin a context gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pipeline_lib.config.shares import normalized
from pipeline_lib.raft.rows import Split

DistractorOrigin = Literal["retrieved", "random", "same_document", "adversarial", "contradicting"]
DISTRACTOR_ORIGINS: tuple[DistractorOrigin, ...] = (
    "retrieved", "random", "same_document", "adversarial", "contradicting",
)  # fmt: skip
HELD_OUT_ORIGINS: frozenset[DistractorOrigin] = frozenset({"retrieved", "random"})
"""What questions of validation and test are asked with: passages that a search could bring."""


MADE_UP_ORIGINS: frozenset[DistractorOrigin] = frozenset({"adversarial", "contradicting"})
"""What stands beside an oracle only."""


def origin_shares(
    shares: Mapping[str, float], split: Split, *, has_oracle: bool
) -> dict[DistractorOrigin, float]:
    """The shares that hold in a context, adding up to 1.

    Args:
        shares: as configured.
        split: of the context's questions.
        has_oracle: whether the context holds one.
    """
    allowed = {
        origin: shares.get(origin, 0.0)
        for origin in DISTRACTOR_ORIGINS
        if (split == "train" or origin in HELD_OUT_ORIGINS)
        and (has_oracle or origin not in MADE_UP_ORIGINS)
    }
    if not any(allowed.values()):
        return {"retrieved": 1.0}
    known = normalized({str(origin): share for origin, share in allowed.items()})
    return {origin: known[origin] for origin in DISTRACTOR_ORIGINS if origin in known}


def origin_counts(
    shares: Mapping[DistractorOrigin, float], count: int, draw: float
) -> dict[DistractorOrigin, int]:
    """`count` distractors by origin, by systematic sampling.

    Each origin gets its share of `count`, rounded up or down; over many draws the mean is the
    share exactly, also where it is less than one passage per row.

    Args:
        shares: origin to share, adding up to 1.
        count: distractors in all.
        draw: from [0, 1).
    """
    counts: dict[DistractorOrigin, int] = {}
    taken, cumulated = 0, 0.0
    for origin, share in shares.items():
        cumulated += share * count
        upto = min(count, math.floor(cumulated + draw + 1e-9))
        counts[origin] = upto - taken
        taken = upto
    return counts
