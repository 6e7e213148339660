"""Threads that compute alone: in order, without disturbing the caller's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from pipeline_lib.training.fused.threads import in_threads

NUM_THREADS = 3


@pytest.fixture(autouse=True)
def _threads(set_threads: Callable[[int], None]) -> None:
    set_threads(NUM_THREADS)


def _where(_: int) -> tuple[str, int, bool]:
    time.sleep(0.01)
    return threading.current_thread().name, torch.get_num_threads(), torch.is_grad_enabled()


def test_each_thread_computes_alone_and_without_gradients() -> None:
    found = list(in_threads(_where, range(30)))
    assert len({name for name, _, _ in found}) == NUM_THREADS
    assert threading.current_thread().name not in {name for name, _, _ in found}
    assert {(number, is_grad) for _, number, is_grad in found} == {(1, False)}


def test_results_come_in_order() -> None:
    def late_at_first(number: int) -> int:
        time.sleep(0.002 * (10 - number))
        return number

    assert list(in_threads(late_at_first, range(10))) == list(range(10))


def test_the_callers_threads_stay_as_they_were() -> None:
    list(in_threads(_where, range(6)))
    assert torch.get_num_threads() == NUM_THREADS
    assert torch.is_grad_enabled()
    asked: list[int] = []
    new = threading.Thread(target=lambda: asked.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert asked == [NUM_THREADS], "what a thread has that begins later"


@pytest.mark.parametrize(("num_threads", "num_works"), [(1, 5), (NUM_THREADS, 1)])
def test_what_cannot_be_shared_out_is_done_by_the_caller(num_threads: int, num_works: int) -> None:
    torch.set_num_threads(num_threads)
    own = threading.current_thread().name
    found = list(in_threads(_where, range(num_works)))
    assert found == [(own, num_threads, False)] * num_works


def test_an_error_reaches_the_caller_and_the_threads_go_on() -> None:
    def divide(number: int) -> float:
        return 1 / (number - 2)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(divide, range(5)))
    assert list(in_threads(divide, range(3, 6))) == [1.0, 0.5, 1 / 3]
