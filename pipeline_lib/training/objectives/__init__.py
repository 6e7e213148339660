"""What a model is trained towards, each a small piece over the same loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_lib.config import Objective

if TYPE_CHECKING:
    from pipeline_lib.training.objectives.base import TrainingObjective


def objective_named(name: Objective) -> TrainingObjective:
    """The implementation of an objective; the others' libraries are not imported."""
    if name == "dapt":
        from pipeline_lib.training.objectives.pretraining import Pretraining

        return Pretraining()
    if name == "sft":
        from pipeline_lib.training.objectives.supervised import Supervised

        return Supervised()
    if name == "dpo":
        from pipeline_lib.training.objectives.preferences import Preferences

        return Preferences()
    from pipeline_lib.training.objectives.reinforcement import Reinforcement

    return Reinforcement()
