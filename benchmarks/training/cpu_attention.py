"""Attention of packed rows on a processor: by blocks, and by torch's scaled dot-product attention.

    OMP_NUM_THREADS=1 python -m benchmarks.training.cpu_attention [--precision bf16] [--rounds 3]

Forward and backward, heads as SmolLM2-135M has them (9 queries on 3 keys of width 64), rows of one
length that add up to 2,000 tokens or one longer row; each on the same numbers in the same process,
in turn. Printed are CPU milliseconds (the least of the rounds) and the ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from pipeline_lib.training.attention import Segments, _by_segment
from pipeline_lib.training.fused.attention import block_attention

HEADS, KEY_HEADS, WIDTH = 9, 3, 64
LENGTHS = (250, 500, 1000, 2000, 4000, 8000)
TOKENS = 2000


def milliseconds(attend: Callable[..., Any], heads: list[Any], gradient: Any) -> float:
    """CPU time of a forward and a backward pass."""
    start = time.process_time()
    attend(*heads).backward(gradient)
    return (time.process_time() - start) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.precision]
    print("rows x tokens    blocks   torch's   ratio")
    for length in LENGTHS:
        num_rows = max(1, TOKENS // length)
        segments = Segments((length,) * num_rows, (-1,) * num_rows)

        def by_blocks(*heads: Any, segments: Segments = segments) -> Any:
            query, key, value = heads
            return block_attention(query, key, value, segments, None, None)

        def by_torch(*heads: Any, segments: Segments = segments) -> Any:
            query, key, value = heads
            return _by_segment(segments, query, key, value, None, None)

        # As projections give them: tokens before heads.
        heads: list[Any] = [
            torch.randn(1, length * num_rows, count, WIDTH, dtype=dtype).transpose(1, 2)
            for count in (HEADS, KEY_HEADS, KEY_HEADS)
        ]
        for head in heads:
            head.requires_grad_()
        gradient = torch.randn(1, length * num_rows, HEADS, WIDTH, dtype=dtype)
        taken: dict[Callable[..., Any], list[float]] = {by_blocks: [], by_torch: []}
        for number in range(arguments.rounds + 1):
            for attend, times in taken.items():
                spent = milliseconds(attend, heads, gradient)
                if number:  # the first round warms up
                    times.append(spent)
        blocks, torchs = (min(times) for times in taken.values())
        print(f"{num_rows:4} x {length:5} {blocks:9.1f} {torchs:9.1f} {torchs / blocks:6.2f}x")


if __name__ == "__main__":
    main()
