"""How time and memory of a training step grow: with the rows' length, their documents, the ranks.

    python -m benchmarks.training.scaling [--series length documents ranks]
    python -m benchmarks.training.scaling --lengths 1024 4096 16384 --arms raftline trl-best

Three series, each with all else fixed: prompts of `--lengths` tokens in five documents; prompts of
`--documents` documents of about 150 tokens each; the same step on `--ranks` processes (the
product's own arms alone). Every point is a run of its own of an arm of `benchmarks.training.peers`.
An arm that fails at some size, most often for want of memory, is noted, and the others go on.

Memory is what all ranks take together on a CPU, and the largest rank's on GPUs.

Written: `training-scaling-….csv` and `.json` with every point, and `.svg` with the charts.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import ceil, lcm
from pathlib import Path
from typing import Literal

from benchmarks.training.harness.charts import Line, Panel, draw
from benchmarks.training.harness.job import ARMS, ArmName
from benchmarks.training.harness.report import seconds_of, write_log
from benchmarks.training.harness.setup import Options, Setup, add_options, options_of, prepare
from benchmarks.training.harness.watching import ArmFailedError, Measurement, measure
from pipeline_lib.errors import RaftlineError
from pipeline_lib.settings import load_settings

Series = Literal["length", "documents", "ranks"]
SERIES: dict[Series, str] = {
    "length": "prompt tokens of a row",
    "documents": "documents of a row",
    "ranks": "ranks",
}
_TOKENS_PER_DOCUMENT = 150
_TOKENS_AROUND = 120
"""Of instructions and question."""
_SET_HERE = frozenset({"dataset", "documents", "prompt_tokens", "max_seq_len", "ranks"})


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run."""

    series: Series
    size: int
    """Tokens, documents or ranks."""
    arm: ArmName
    tokens_per_row: float
    seconds_per_row: float | None
    """Of CPU time on a CPU, of wall time on a GPU; `None`: the run failed."""
    wall_seconds_per_row: float | None
    peak_bytes: int | None
    extra_bytes: int | None
    """Of the peak, above the loaded model."""


def sizes_of(series: Series, arguments: argparse.Namespace) -> Iterator[tuple[int, Options]]:
    """What a series goes through: sizes, and what is measured at each."""
    options = options_of(arguments)
    if series == "ranks":
        per_pass = lcm(*arguments.rank_counts) * options.micro_batch
        rows = ceil(options.rows / per_pass) * per_pass
        for ranks in arguments.rank_counts:
            yield ranks, replace(options, ranks=ranks, rows=rows)
        return
    for size in arguments.lengths if series == "length" else arguments.document_counts:
        tokens = size if series == "length" else _TOKENS_AROUND + _TOKENS_PER_DOCUMENT * size
        documents = options.documents if series == "length" else size
        # Rows differ in length, and none is to be left out.
        yield (
            size,
            replace(
                options, prompt_tokens=tokens, documents=documents, max_seq_len=2 * tokens + 512
            ),
        )


def measure_point(series: Series, size: int, setup: Setup, arm: ArmName, folder: Path) -> Point:
    """One arm at one size; a failure is told and noted."""
    try:
        measured = measure(setup.job(arm, folder), 0, setup.options.warmup)
    except ArmFailedError as error:
        print(error, file=sys.stderr)
        measured = None
    point = _point(series, size, setup, arm, measured)
    seconds = point.seconds_per_row
    print(
        f"{series:10} {size:6} {arm:19} {point.tokens_per_row:9.0f} tokens/row "
        + ("  failed" if seconds is None else f"{seconds:9.2f} s/row")
        + ("" if point.peak_bytes is None else f" {point.peak_bytes / 1e6:9,.0f} MB peak"),
        flush=True,
    )
    return point


def _point(
    series: Series, size: int, setup: Setup, arm: ArmName, measured: Measurement | None
) -> Point:
    tokens_per_row = setup.tokens.input / setup.tokens.rows
    if measured is None:
        return Point(
            series=series,
            size=size,
            arm=arm,
            tokens_per_row=tokens_per_row,
            seconds_per_row=None,
            wall_seconds_per_row=None,
            peak_bytes=None,
            extra_bytes=None,
        )
    num_rows = setup.tokens.rows * measured.num_steps
    peak, loaded = measured.peak_bytes, measured.loaded_bytes
    return Point(
        series=series,
        size=size,
        arm=arm,
        tokens_per_row=tokens_per_row,
        seconds_per_row=seconds_of(measured, setup.device) / num_rows,
        wall_seconds_per_row=measured.wall_seconds / num_rows,
        peak_bytes=peak,
        extra_bytes=None if peak is None or loaded is None else peak - loaded,
    )


def panels(points: Sequence[Point], clock: str) -> list[Panel]:
    """For each series a chart of time and one of memory, of what did not fail."""
    drawn = []
    for series, x_title in SERIES.items():
        own = [p for p in points if p.series == series and p.seconds_per_row is not None]
        arms = dict.fromkeys(point.arm for point in own)
        if not own:
            continue
        times = tuple(
            Line(arm, tuple((p.size, p.seconds_per_row or 0.0) for p in own if p.arm == arm))
            for arm in arms
        )
        peaks = tuple(
            Line(arm, tuple((p.size, (p.extra_bytes or 0) / 1e9) for p in own if p.arm == arm))
            for arm in arms
        )
        drawn.append(Panel("Time of a row", x_title, f"{clock} per row", times))
        drawn.append(Panel("Memory above the model", x_title, "GB at the peak", peaks))
    return drawn


def write_csv(path: Path, points: Sequence[Point]) -> None:
    """A line for each point."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Point)])
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)


def run(arguments: argparse.Namespace) -> None:
    """Measure all series, and write what came out."""
    points: list[Point] = []
    setups: list[Setup] = []
    with tempfile.TemporaryDirectory(prefix="raftline-benchmark-") as folder:
        for series in arguments.series:
            for size, options in sizes_of(series, arguments):
                place = Path(folder) / f"{series}-{size}"
                setup = prepare(options, place)
                setups.append(setup)
                points += [
                    measure_point(series, size, setup, arm, place / arm)
                    for arm in arguments.arms
                    if series != "ranks" or arm.startswith("raftline")
                ]
    output = arguments.output or load_settings().home / "benchmarks"
    log = write_log(output, "scaling", setups, [], points=[asdict(point) for point in points])
    write_csv(log.with_suffix(".csv"), points)
    clock = "CPU seconds" if setups[0].device == "cpu" else "seconds"
    charts = panels(points, clock)
    if charts:
        log.with_suffix(".svg").write_text(draw(charts), encoding="utf-8")
    print(f"Log: {log}, and .csv and .svg beside it")


def main() -> None:
    """Measure the series that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser, leave_out=_SET_HERE)
    parser.set_defaults(rows=1, micro_batch=1, steps=2)
    parser.add_argument("--series", nargs="+", choices=SERIES, default=tuple(SERIES))
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument(
        "--documents", dest="document_counts", type=int, nargs="+", default=[2, 5, 10, 20]
    )
    parser.add_argument("--ranks", dest="rank_counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=("raftline",), metavar="ARM")
    parser.add_argument("--output", type=Path, help="folder; else .raftline/benchmarks")
    try:
        run(parser.parse_args())
    except (ValueError, RaftlineError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
