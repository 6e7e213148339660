"""How fast and for how long to learn, where nothing is given.

What suits a small model ruins a large one, and what suffices for many rows does not for few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from pipeline_lib.config import FinetuneConfig, Objective

_RATES: Mapping[Objective, float] = {"dapt": 2e-4, "sft": 1e-3, "dpo": 5e-5, "grpo": 1e-5}
"""For LoRA with alpha 32 on the bundled model."""
_THEIR_HIDDEN_SIZE = 576
_POWER = 0.8
_FULL_TO_ADAPTER = 0.1
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 8
_SEEN_ROWS = 384


def learning_rate_of(config: FinetuneConfig, base_path: Path) -> float:
    """The peak learning rate of the configuration's first stage: as given, or by the model's width.

    With `h` the base model's hidden size, `rate · min(1, (576 / h)^0.8)`, to two digits; a tenth of
    it for method 'full' (Schulman et al. 2025, "LoRA Without Regret"). For 'sft' that is 2.1e-4 at
    4,096 and 1.2e-4 at 8,192, near what Dettmers et al. 2023 (QLoRA) chose: 2e-4 for 7 and 13
    billion parameters, 1e-4 for 33 and 65. The rank does not matter while alpha is kept.
    """
    objective = config.stages[0]
    given = config.schedule_of(objective).learning_rate
    if given is not None:
        return given
    from transformers import AutoConfig

    hidden_size = AutoConfig.from_pretrained(base_path).get_text_config().hidden_size
    rate = _RATES[objective] * min(1.0, (_THEIR_HIDDEN_SIZE / hidden_size) ** _POWER)
    if not config.is_adapter:
        rate *= _FULL_TO_ADAPTER
    return float(f"{rate:.1e}")


def num_epochs_of(config: FinetuneConfig, num_rows: int) -> float:
    """How often the rows of the configuration's first stage are learned: as given, or by number.

    That is once, for 'sft' three times; fewer than 128 rows as often as makes 384, at most eight
    times. Of the 48 rows of the demo (`benchmarks/README.md`), three epochs teach a small model to
    refuse most questions, and eight to tell which it can answer.
    """
    objective = config.stages[0]
    given = config.schedule_of(objective).num_epochs
    if given is not None:
        return given
    if objective != "sft":
        return 1
    return max(_FEWEST_EPOCHS, min(_MOST_EPOCHS, math.ceil(_SEEN_ROWS / num_rows)))
