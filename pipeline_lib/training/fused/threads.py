"""Work that is done by several threads, each of which computes alone.

PyTorch shares out each operation on a processor. Of operations that take a tenth of a millisecond,
as those of a block of queries do, waking the other threads takes longer than what they save, unless
they wait by spinning, which a busy machine punishes (see `pipeline_lib/__init__.py`). Here a thread
takes whole pieces of work instead; operations leave Python's lock to the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Work = TypeVar("Work")
Result = TypeVar("Result")


def in_threads(do: Callable[[Work], Result], works: Sequence[Work]) -> Iterator[Result]:
    """Do some work, without gradients, in as many threads as PyTorch has; results in order.

    With one thread, or one piece of work, it is done as the results are asked for, in the calling
    thread, with all of PyTorch's threads.
    """
    do = torch.no_grad()(do)
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(works) < 2:
        return map(do, works)
    return _pool(num_threads).map(do, works)


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(num_threads, "raftline-compute")
    all_there = Barrier(num_threads)

    def compute_alone(_: int) -> None:
        torch.get_num_threads()  # A thread's first question sets its number to that of new threads.
        torch.set_num_threads(1)  # of this thread's operations, and of new threads
        all_there.wait()

    list(pool.map(compute_alone, range(num_threads)))
    torch.set_num_threads(num_threads)  # of new threads, again
    return pool
