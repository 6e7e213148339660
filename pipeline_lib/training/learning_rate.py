"""Learning rates where none is given: what suits a small model ruins a large one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline_lib.config import FinetuneConfig, Objective

_RATES: Mapping[Objective, float] = {"dapt": 2e-4, "sft": 1e-3, "dpo": 5e-5, "grpo": 1e-5}
"""For LoRA with alpha 32 on the bundled model."""
_THEIR_HIDDEN_SIZE = 576
_POWER = 0.8
_FULL_TO_ADAPTER = 0.1


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
