"""What sharing a context saves: four questions a context as one sequence, against rows apart.

    python -m benchmarks.training.shared_context [--questions-per-context 4] [--rows 8] [--rounds 2]

The product's own path trains on the same made rows twice: with `batch.share_contexts`, where a
context is computed once for all questions about it, and without. Everything else, the printed
figures too, is as in `benchmarks.training.peers`.
"""

from __future__ import annotations

import argparse

from benchmarks.training.harness.job import ArmName
from benchmarks.training.harness.setup import add_options
from benchmarks.training.peers import run

ARMS: tuple[ArmName, ...] = ("raftline", "raftline-separate")


def main() -> None:
    """Compare the two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser)
    parser.set_defaults(rows=8, micro_batch=4, questions_per_context=4)
    run("shared-context", parser, ARMS)


if __name__ == "__main__":
    main()
