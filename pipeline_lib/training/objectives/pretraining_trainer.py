"""The Trainer of domain-adaptive pre-training."""

from __future__ import annotations

import math

from pipeline_lib.training.objectives.pretraining import DOMAIN, GENERAL
from pipeline_lib.training.objectives.supervised_trainer import SupervisedTrainer


class PretrainingTrainer(SupervisedTrainer):
    """Trains on every token of a block but the first."""

    best_measure = f"loss_{DOMAIN}"

    def validate(self) -> dict[str, float]:
        """Losses (nats per token) and perplexities, on held-out domain and general text."""
        measured = super().validate()
        measured.setdefault(f"loss_{DOMAIN}", measured["loss"])  # where there is no other text
        for kind in (DOMAIN, GENERAL):
            loss = measured.get(f"loss_{kind}")
            if loss is not None:
                measured[f"perplexity_{kind}"] = math.exp(loss)
        return measured
