"""What sharing a context saves: four questions a context as one sequence, against rows apart.

    python -m benchmarks.training.shared_context [--questions-per-context 4] [--rows 8] [--rounds 2]

The product's own path trains on the same made rows twice: with `batch.share_contexts`, where a
context is computed once for all questions about it, and without. Everything else, the printed
figures too, is as in `benchmarks.training.peers`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.training.harness.job import ArmName
from benchmarks.training.harness.setup import add_options, options_of
from benchmarks.training.harness.watching import ArmFailedError
from benchmarks.training.peers import compare
from pipeline_lib.errors import RaftlineError

ARMS: tuple[ArmName, ...] = ("raftline", "raftline-separate")


def main() -> None:
    """Compare the two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser)
    parser.set_defaults(rows=8, micro_batch=4, questions_per_context=4)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each arm")
    parser.add_argument("--output", type=Path, help="folder of the log; else .raftline/benchmarks")
    arguments = parser.parse_args()
    options = options_of(arguments)
    try:
        agree = compare("shared-context", options, ARMS, arguments.rounds, arguments.output)
    except (ValueError, RaftlineError, ArmFailedError) as error:
        sys.exit(str(error))
    if not agree:
        sys.exit(1)


if __name__ == "__main__":
    main()
