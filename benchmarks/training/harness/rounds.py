"""Arms in turn, round after round, so that what changes on the machine meets all of them alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.training.harness.job import ArmName
from benchmarks.training.harness.setup import Setup
from benchmarks.training.harness.watching import Measurement, measure


def run_rounds(
    setup: Setup, arms: Sequence[ArmName], num_rounds: int, work: Path
) -> list[Measurement]:
    """Measure every arm `num_rounds` times; each round begins with another arm.

    Raises:
        ArmFailedError: an arm failed.
    """
    measurements = []
    for number in range(num_rounds):
        for place in range(len(arms)):
            arm = arms[(place + number) % len(arms)]
            run_folder = work / f"{arm}-{number}"
            measurement = measure(setup.job(arm, run_folder), number, setup.options.warmup)
            print(
                f"round {number + 1} {arm:19} {measurement.wall_seconds:8.2f} s "
                f"{measurement.cpu_seconds:8.2f} CPU-s   losses "
                + " ".join(f"{loss:.4f}" for loss in measurement.losses),
                flush=True,
            )
            measurements.append(measurement)
    return measurements
