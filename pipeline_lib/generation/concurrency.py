"""How many requests an endpoint is given at a time, found by trying.

The limit starts low and doubles while more requests in flight mean more work done per second; a
server that pushes back (429, 503, a time-out) halves it, and from then on it grows in small steps.
Work per second is judged by Little's law, `in flight x work per request / seconds per request`,
with completion tokens as the work: a batching server slows each request down as it is given more
and is still faster in total, so latency alone would say stop far too early.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_FIRST_LIMIT = 8
_LEAST_SAMPLES = 8
_STEP_DIVISOR = 8
"""After the first setback the limit grows by an eighth per round."""
_JUDGED_GROWTH = 1.5
"""Smaller differences in limit are within the noise of what their requests happen to ask for."""
_LEAST_GAIN = 0.25
"""Of the growth in requests, the part that must come back as growth in work per second."""
_COLLAPSE = 0.5
_ROUNDS_OF_REST = 8


@dataclass(slots=True)
class _Round:
    """What was measured since the limit last changed."""

    num_samples: int = 0
    in_flight: int = 0
    """Summed over the samples, as the others are."""
    seconds: float = 0.0
    work: float = 0.0


class AdaptiveLimit:
    """Decides the number of requests in flight; knows neither clock nor event loop.

    A request belongs to the round in which it was sent, so that what was sent under another limit
    neither counts as evidence about this one nor halves it a second time.

    Args:
        most: never above this.
        first: where to start.
    """

    def __init__(self, most: int, *, first: int = _FIRST_LIMIT) -> None:
        self._most = most
        self._current = min(first, most)
        self._round = _Round()
        self._best: tuple[int, float] | None = None
        self._is_doubling = True
        self._rest = 0
        self._kind: Hashable = None

    @property
    def current(self) -> int:
        """Requests that may be in flight now."""
        return self._current

    @property
    def round(self) -> object:
        """Token of the present round, to be handed back with a request's outcome."""
        return self._round

    def new_work(self, kind: Hashable) -> None:
        """What follows is of this kind; times of another kind (longer, shorter) are no measure."""
        if kind != self._kind:
            self._kind = kind
            self._best = None
            self._round = _Round()

    def served(self, sent_in: object, *, seconds: float, work: float, in_flight: int) -> None:
        """A request was answered.

        Args:
            sent_in: the round in which it was sent.
            seconds: from sending to receiving.
            work: tokens written, at least 1.
            in_flight: requests in flight, this one included; far below the limit there was too
                little to send, which says nothing about the limit.
        """
        if sent_in is not self._round or in_flight < 0.75 * self._current:
            return
        this = self._round
        this.num_samples += 1
        this.in_flight += in_flight
        this.seconds += seconds
        this.work += work
        if this.num_samples >= max(_LEAST_SAMPLES, self._current // 2):
            self._judge(this.in_flight / this.num_samples * this.work / max(this.seconds, 1e-9))

    def pushed_back(self, sent_in: object) -> None:
        """The server refused a request for being one too many, or did not manage it in time."""
        if sent_in is self._round:
            self._halve()

    def _judge(self, rate: float) -> None:
        if self._best is None:
            self._best = (self._current, rate)
            self._grow()
            return
        best_limit, best_rate = self._best
        if rate < _COLLAPSE * best_rate:
            self._halve()
        elif self._current < _JUDGED_GROWTH * best_limit:
            if self._current == best_limit:
                self._best = (best_limit, (best_rate + rate) / 2)
            self._grow()
        elif rate < best_rate * (1 + _LEAST_GAIN * (self._current / best_limit - 1)):
            self._is_doubling = False
            self._rest = _ROUNDS_OF_REST
            self._move_to(best_limit)
        else:
            self._best = (self._current, rate)
            self._grow()

    def _grow(self) -> None:
        if self._rest > 0:
            self._rest -= 1
            self._move_to(self._current)
        elif self._is_doubling:
            self._move_to(2 * self._current)
        else:
            self._move_to(self._current + max(1, self._current // _STEP_DIVISOR))

    def _halve(self) -> None:
        self._is_doubling = False
        self._best = None
        self._move_to(self._current // 2)

    def _move_to(self, limit: int) -> None:
        self._current = max(1, min(limit, self._most))
        self._round = _Round()


class Slots:
    """Hands out the limit's places to the tasks of one event loop, repeated requests first."""

    def __init__(self, limit: AdaptiveLimit) -> None:
        self._limit = limit
        self._num_in_flight = 0
        self._num_holds = 0
        self._repeats: deque[asyncio.Future[None]] = deque()
        self._firsts: deque[asyncio.Future[None]] = deque()

    async def acquire(self, *, is_repeat: bool = False) -> Slot:
        """Wait for a place; it must be released."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._repeats if is_repeat else self._firsts).append(waiter)
        self._hand_out()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._give_back()
            raise
        return Slot(self, self._limit)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Send nothing meanwhile: the server has said when it wants to be asked again."""
        self._num_holds += 1
        try:
            yield
        finally:
            self._num_holds -= 1
            self._hand_out()

    @property
    def num_in_flight(self) -> int:
        """Places taken."""
        return self._num_in_flight

    def _give_back(self) -> None:
        self._num_in_flight -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while not self._num_holds and self._num_in_flight < self._limit.current:
            line = self._repeats or self._firsts
            if not line:
                return
            waiter = line.popleft()
            if not waiter.done():
                self._num_in_flight += 1
                waiter.set_result(None)


class Slot:
    """One place in flight."""

    def __init__(self, slots: Slots, limit: AdaptiveLimit) -> None:
        self._slots = slots
        self._limit = limit
        self._round = limit.round

    def served(self, *, seconds: float, num_tokens: int) -> None:
        """The request was answered after `seconds`."""
        self._limit.served(
            self._round,
            seconds=seconds,
            work=max(1, num_tokens),
            in_flight=self._slots.num_in_flight,
        )

    def pushed_back(self) -> None:
        """The server had too much to do."""
        self._limit.pushed_back(self._round)

    def release(self) -> None:
        """Let the next request go."""
        self._slots._give_back()
