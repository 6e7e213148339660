"""From measurements to a table, ratios, and a log that says on what they were made."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.training.harness.job import ArmName
from benchmarks.training.harness.setup import Setup
from benchmarks.training.harness.watching import Measurement

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "flash-attn")
_TOLERANCES = {"bf16": 0.01, "fp32": 1e-3}
"""Largest relative difference between the arms' first losses. The weights are the same then, so
what differs is the order of sums; in bf16 every sum is rounded to 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median, and between what values it lies."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(middle=median(values), low=min(values), high=max(values))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All rounds of one arm."""

    arm: ArmName
    samples_per_second: Spread
    input_tokens_per_second: float
    """As many tokens as its rows have, whether it computes each of them or shares some."""
    peak_bytes: int | None
    """The largest of the rounds."""
    extra_bytes: int | None
    """Of it, above the loaded model."""
    first_loss: float
    final_loss: float
    mfu: float | None


def seconds_of(measurement: Measurement, device: str) -> float:
    """CPU time on a CPU, where wall time tells of the neighbours; else wall time."""
    return measurement.cpu_seconds if device == "cpu" else measurement.wall_seconds


def summarize(measurements: Sequence[Measurement], setup: Setup) -> list[Summary]:
    """One summary per arm, in order of their first run."""
    arms = dict.fromkeys(m.arm for m in measurements)
    return [_summary([m for m in measurements if m.arm == arm], setup) for arm in arms]


def _summary(runs: Sequence[Measurement], setup: Setup) -> Summary:
    speeds = [setup.tokens.rows * m.num_steps / seconds_of(m, setup.device) for m in runs]
    rate = Spread.of(speeds)
    peaks = [m.peak_bytes for m in runs if m.peak_bytes is not None]
    extras = [
        m.peak_bytes - m.loaded_bytes
        for m in runs
        if m.peak_bytes is not None and m.loaded_bytes is not None
    ]
    return Summary(
        arm=runs[0].arm,
        samples_per_second=rate,
        input_tokens_per_second=rate.middle * setup.tokens.input / setup.tokens.rows,
        peak_bytes=max(peaks, default=None),
        extra_bytes=max(extras, default=None),
        first_loss=runs[0].losses[0],
        final_loss=runs[0].losses[-1],
        mfu=runs[-1].mfu,
    )


def ratio(
    measurements: Sequence[Measurement],
    arm: ArmName,
    peer: ArmName,
    clock: Callable[[Measurement], float],
) -> Spread:
    """How many times as fast `arm` is as `peer`, round by round, in seconds of a clock."""
    seconds = {(m.arm, m.round): clock(m) for m in measurements}
    rounds = sorted({m.round for m in measurements})
    return Spread.of([seconds[peer, number] / seconds[arm, number] for number in rounds])


def table(summaries: Sequence[Summary], device: str) -> str:
    """A line for each arm."""
    clock = "CPU-s" if device == "cpu" else "s"
    lines = [
        f"{'arm':19} {'samples/' + clock:>24} {'input tokens/' + clock:>18} {'peak MB':>9} "
        f"{'extra MB':>9} {'first loss':>11} {'final loss':>11} {'MFU':>6}"
    ]
    for each in summaries:
        rate = each.samples_per_second
        spread = f"{rate.middle:.3f} ({rate.low:.3f}-{rate.high:.3f})"
        lines.append(
            f"{each.arm:19} {spread:>24} {each.input_tokens_per_second:>18,.0f} "
            f"{_megabytes(each.peak_bytes):>9} {_megabytes(each.extra_bytes):>9} "
            f"{each.first_loss:>11.4f} {each.final_loss:>11.4f} "
            f"{'-' if each.mfu is None else f'{each.mfu:.1%}':>6}"
        )
    return "\n".join(lines)


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:,.0f}"


def ratio_lines(
    measurements: Sequence[Measurement], summaries: Sequence[Summary], arm: ArmName, device: str
) -> list[str]:
    """How `arm` compares with each of the others."""
    by_arm = {each.arm: each for each in summaries}
    own = by_arm[arm].extra_bytes
    lines = []
    for peer, other in by_arm.items():
        if peer == arm:
            continue
        times = ratio(measurements, arm, peer, lambda m: seconds_of(m, device))
        line = (
            f"{arm} is {times.middle:.2f}x as fast as {peer} ({times.low:.2f} to "
            f"{times.high:.2f} over {len({m.round for m in measurements})} rounds)"
        )
        if device == "cpu":  # with several threads or ranks, what counts for whoever waits
            wall = ratio(measurements, arm, peer, lambda m: m.wall_seconds)
            line += f", by the clock {wall.middle:.2f}x ({wall.low:.2f} to {wall.high:.2f})"
        if own is not None and other.extra_bytes:
            line += f", with {own / other.extra_bytes:.2f} of its extra memory"
        lines.append(line)
    return lines


def loss_disagreement(measurements: Sequence[Measurement], precision: str) -> str | None:
    """What is wrong when the arms' first losses differ by more than rounding; else `None`.

    Arms whose first losses differ do not learn the same tokens from the same weights, and their
    speeds cannot be compared.
    """
    first = {m.arm: m.losses[0] for m in measurements}
    low, high = min(first.values()), max(first.values())
    tolerance = _TOLERANCES[precision]
    if high - low <= tolerance * abs(low):
        return None
    shown = ", ".join(f"{arm} {loss:.5f}" for arm, loss in first.items())
    return (
        f"THE ARMS DO NOT COMPUTE THE SAME LOSS: the first losses differ by "
        f"{(high - low) / abs(low):.2%}, more than {tolerance:.1%}: {shown}"
    )


def write_log(
    folder: Path,
    name: str,
    setups: Sequence[Setup],
    measurements: Sequence[Measurement],
    **results: Any,
) -> Path:
    """Write all that was measured and on what, as JSON; returns the file."""
    now = datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"training-{name}-{now:%Y%m%d-%H%M%S}.json"
    record = {
        "benchmark": name,
        "command": sys.argv[1:],
        "finished_at": now.isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": hardware(),
        "versions": versions(),
        "setups": [setup.facts() for setup in setups],
        "measurements": [asdict(measurement) for measurement in measurements],
        **results,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def versions() -> dict[str, str]:
    """Of what does the work; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """This machine, and how busy it is."""
    import psutil
    import torch

    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    facts: dict[str, Any] = {
        "cpu": names[0] if names else platform.processor(),
        "num_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg()[0],
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
    if torch.cuda.is_available():
        facts |= {
            "gpu": torch.cuda.get_device_name(0),
            "num_gpus": torch.cuda.device_count(),
            "gpu_memory_bytes": torch.cuda.get_device_properties(0).total_memory,
            "cuda": torch.version.cuda,
        }
    return facts


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
