"""Whether rewards can tell good answers from bad ones, before anything is trained towards them.

Every row brings its own reference, the row's target, and answers that are spoilt in known ways. A
reward is measured by the share of (reference, spoilt) pairs of one row that it orders rightly, a
tie counting half: the area under the ROC curve within rows, which is what a policy is compared by.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline_lib.errors import RewardError
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.rendering import render_target
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.training.rewards.scoring import rewards_of
from pipeline_lib.training.rewards.spoiling import FAULTS, spoilt_answers

TOTAL = "total"

_MAX_ROWS = 200
_NUM_WORST = 3
_SHOWN_CHARS = 100


@dataclass(frozen=True)
class Comparison:
    """A reward of a row's reference and of a spoilt answer to the same row."""

    row_id: str
    fault: str
    reference: float
    spoilt: float
    text: str
    """The spoilt answer."""

    @property
    def order(self) -> float:
        """1 when the reference is worth more, 0.5 when both are worth the same, else 0."""
        return 0.5 + 0.5 * ((self.reference > self.spoilt) - (self.reference < self.spoilt))

    def __str__(self) -> str:
        text = " ".join(self.text.split())[:_SHOWN_CHARS]
        return (
            f"row {self.row_id}, fault {self.fault!r}: {self.spoilt:.2f}, and its reference only "
            f"{self.reference:.2f} ({text!r})"
        )


@dataclass(frozen=True)
class Separation:
    """How well one reward tells references from the spoilt answers that it must see."""

    reward: str
    comparisons: tuple[Comparison, ...]

    @property
    def share(self) -> float:
        """Of pairs that are ordered rightly."""
        return sum(one.order for one in self.comparisons) / len(self.comparisons)

    @property
    def worst(self) -> list[Comparison]:
        """The pairs that are ordered most wrongly."""
        wrong = [one for one in self.comparisons if one.order < 1]
        return sorted(wrong, key=lambda one: one.reference - one.spoilt)[:_NUM_WORST]


def measure_rewards(
    rows: Iterable[RaftRow], weights: Mapping[str, float], *, seed: int
) -> dict[str, Separation]:
    """Separation of each reward with a weight, and of `total`; none for one without a pair.

    Args:
        rows: of target `answer` or `refuse`; at most 200 of them, drawn by their ids.
        weights: see `weights_of`.
        seed: of the draw, and of the spoilt answers.
    """
    drawn = heapq.nsmallest(
        _MAX_ROWS, rows, key=lambda row: unit_interval(seed, row.row_id, "reward check")
    )
    found: dict[str, list[Comparison]] = {name: [] for name in (*weights, TOTAL)}
    for place, row in enumerate(drawn):
        best = rewards_of(row, render_target(row), weights)
        for spoilt in spoilt_answers(row, [*drawn[place + 1 :], *drawn[:place]], seed=seed):
            worth = rewards_of(row, spoilt.text, weights)
            for name in (*FAULTS[spoilt.fault], TOTAL):
                if name in found:
                    found[name].append(
                        Comparison(row.row_id, spoilt.fault, best[name], worth[name], spoilt.text)
                    )
    return {name: Separation(name, tuple(pairs)) for name, pairs in found.items() if pairs}


def check_rewards(
    rows: Iterable[RaftRow], weights: Mapping[str, float], min_separation: float, *, seed: int
) -> dict[str, Separation]:
    """Refuse rewards that cannot tell references from bad answers; see `measure_rewards`.

    Args:
        rows: that are to be trained on.
        weights: see `weights_of`.
        min_separation: the least share of pairs that a reward, and their total, must order rightly.
        seed: of what is drawn.

    Raises:
        RewardError: one is below it, or there is no row that it can be measured on.
    """
    measured = measure_rewards(rows, weights, seed=seed)
    for name in (*weights, TOTAL):
        if name not in measured:
            raise RewardError(
                f"The reward {name!r} cannot be checked: no answer to the rows can be spoilt in a "
                "way that it must see",
                hint=f"Set finetune.reinforcement.reward_weights.{name} to 0, or train on rows "
                "whose answers have quotes.",
            )
        separation = measured[name]
        if separation.share < min_separation:
            examples = "; ".join(map(str, separation.worst))
            raise RewardError(
                f"The reward {name!r} puts the reference first in only {separation.share:.1%} of "
                f"{len(separation.comparisons)} pairs of a reference and a spoilt answer, and "
                f"{min_separation:.0%} are asked for. Worst: {examples}",
                hint="The dataset's own answers do not get what the reward is for: look at these "
                "rows, or give the reward weight 0, or lower reinforcement.min_separation.",
            )
    return measured
