"""Where the validations of a run stand, read from its log.

All that is decided from validations (which step was the best, whether patience is at its end) comes
from the log that checkpoints keep, so a resumed run decides as one that never stopped. The
untrained model's validation, step 0, is there to compare with; it is never the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_lib.errors import TrainingError

VALIDATION_PREFIX = "eval_"
"""Of what was measured on validation rows, in the log."""
_LOWER_IS_BETTER = ("loss", "perplexity")


@dataclass(frozen=True)
class Standing:
    """Where the validations of a run stand."""

    best_step: int | None
    """The one with the best value, and of equal ones with the lowest loss; `None` before any."""
    best_value: float | None
    num_without_improvement: int
    """Validations after the best one."""
    last_step: int | None
    """Of the last validation, that of the untrained model included."""


def standing(log: Iterable[Mapping[str, Any]], measure: str) -> Standing:
    """Read the validations of a log (`step` with `eval_<measure>`).

    Shares of a few questions often come out equal, above all while a model cannot do it at all:
    then the lower loss is the better one.

    Raises:
        TrainingError: validations there are, but without that measure.
    """
    sign = -1 if measure.startswith(_LOWER_IS_BETTER) else 1
    best: tuple[float, float] | None = None
    best_step: int | None = None
    since = 0
    last = None
    for entry in log:
        if not any(name.startswith(VALIDATION_PREFIX) for name in entry):
            continue
        value = entry.get(VALIDATION_PREFIX + measure)
        if value is None:
            known = [name for name in entry if name.startswith(VALIDATION_PREFIX)]
            raise TrainingError(
                f"Validation measured {', '.join(known)} at step {entry['step']}, but not {measure}"
            )
        last = entry["step"]
        if last == 0:
            continue
        loss = entry.get(VALIDATION_PREFIX + "loss")
        worth = (sign * value, -math.inf if loss is None else -loss)
        if best is None or worth > best:
            best, best_step, since = worth, last, 0
        else:
            since += 1
    return Standing(best_step, None if best is None else sign * best[0], since, last)
