"""The same training by Raftline and by what people use today, on the hardware at hand.

    python -m benchmarks.training.peers [--rows 4] [--rounds 1] [--dataset dataset/demo@latest]
    python -m benchmarks.training.peers --model random:llama-3.1-8b --rows 8 --prompt-tokens 4000 …

Each arm trains in a process of its own: the product's own path (the launcher, its worker, one rank
or `--ranks`), TRL's SFTTrainer with its defaults and with its best settings, and transformers'
Trainer. They start from the same weights and learn the same tokens of the same rows with AdamW at
the same constant rate; every step takes all rows once, so that the loss of each step can be
compared. Arms take turns, and the first steps of each run are not measured.

Printed per arm: samples and input tokens per second (of CPU time on a CPU, of wall time on a GPU),
peak memory and how much of it is above the loaded model, the first and the last loss; then the
ratios, round by round, on a CPU by the clock too. Ends with 1 when the arms' first losses differ by
more than rounding, for then they did not do the same. All of it goes into a JSON log, with versions
and hardware.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.training.harness.job import ARMS, ArmName
from benchmarks.training.harness.report import (
    loss_disagreement,
    ratio_lines,
    summarize,
    table,
    write_log,
)
from benchmarks.training.harness.rounds import run_rounds
from benchmarks.training.harness.setup import Options, add_options, options_of, prepare
from benchmarks.training.harness.watching import ArmFailedError
from pipeline_lib.errors import RaftlineError
from pipeline_lib.settings import load_settings

DEFAULT_ARMS: tuple[ArmName, ...] = ("raftline", "trl-best", "trl-default", "hf-trainer")


def compare(
    name: str, options: Options, arms: Sequence[ArmName], num_rounds: int, output: Path | None
) -> bool:
    """Measure, print and log; the first arm is compared with the others.

    Returns:
        Whether the arms agree about the first loss.
    """
    with tempfile.TemporaryDirectory(prefix="raftline-benchmark-") as folder:
        setup = prepare(options, Path(folder) / "rows")
        print(setup, flush=True)
        measurements = run_rounds(setup, arms, num_rounds, Path(folder))
    summaries = summarize(measurements, setup)
    print(table(summaries, setup.device))
    ratios = ratio_lines(measurements, summaries, arms[0], setup.device)
    disagreement = loss_disagreement(measurements, setup.precision)
    print("\n".join([*ratios, disagreement or "The arms agree about the first loss."]))
    path = write_log(
        output or load_settings().home / "benchmarks",
        name,
        [setup],
        measurements,
        summary=[asdict(summary) for summary in summaries],
        ratios=ratios,
        disagreement=disagreement,
    )
    print(f"Log: {path}")
    return disagreement is None


def run(name: str, parser: argparse.ArgumentParser, arms: Sequence[ArmName] = ()) -> None:
    """Compare as the command line says, and end the process where the arms disagree.

    Args:
        name: of the log.
        parser: knows what the benchmark asks for beside rounds and output.
        arms: to compare; without any, those of `--arms`.
    """
    parser.add_argument("--rounds", type=int, default=1, help="runs of each arm")
    parser.add_argument("--output", type=Path, help="folder of the log; else .raftline/benchmarks")
    arguments = parser.parse_args()
    options = options_of(arguments)
    try:
        agree = compare(name, options, arms or arguments.arms, arguments.rounds, arguments.output)
    except (ValueError, RaftlineError, ArmFailedError) as error:
        sys.exit(str(error))
    if not agree:
        sys.exit(1)


def main() -> None:
    """Compare the arms that are asked for."""
    described = "\n".join(f"  {arm:19} {what}" for arm, what in ARMS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog=f"arms:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=ARMS,
        default=DEFAULT_ARMS,
        metavar="ARM",
        help="see below; the first is compared with the others",
    )
    run("peers", parser)


if __name__ == "__main__":
    main()
