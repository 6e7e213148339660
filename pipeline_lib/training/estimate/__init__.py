"""What a training will take, told before it starts: memory, operations, time.

    rows = TrainingRows.of_file(prepared.files["train"], config)
    estimate = estimate_training(config, base_path, rows, this_machine())
    check(estimate, config, base_path, rows, this_machine())

Parameters are counted on a model without weights; activations are simulated for the largest micro
batch that the real lengths give; weights, gradients and the optimizer's numbers follow from the
method and the ZeRO stage; operations over measured or known speed give the time.
"""

from pipeline_lib.training.estimate.estimating import estimate_training
from pipeline_lib.training.estimate.fitting_in import (
    check,
    nearest_that_fits,
    resolve_checkpointing,
)
from pipeline_lib.training.estimate.hardware import Hardware, this_machine
from pipeline_lib.training.estimate.report import MemoryUse, TrainingEstimate
from pipeline_lib.training.estimate.workload import TrainingRows

__all__ = [
    "Hardware",
    "MemoryUse",
    "TrainingEstimate",
    "TrainingRows",
    "check",
    "estimate_training",
    "nearest_that_fits",
    "resolve_checkpointing",
    "this_machine",
]
