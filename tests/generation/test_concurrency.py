"""The number of requests in flight, against simulated servers and a real event loop."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

import pytest

from pipeline_lib.generation.concurrency import AdaptiveLimit, Slots


def simulate(
    limit: AdaptiveLimit,
    seconds_at: Callable[[int], float],
    *,
    num_requests: int = 3000,
    most_at_once: int = 10_000,
    refuse: bool = False,
) -> list[int]:
    """Requests of one token to a server that needs `seconds_at(num in flight)`, or refuses.

    Returns the limit after every request.
    """
    now, in_flight, sent = 0.0, 0, 0
    arrivals: list[tuple[float, int, object, float, bool]] = []
    seen = []
    while sent < num_requests or arrivals:
        while sent < num_requests and in_flight < limit.current:
            in_flight += 1
            sent += 1
            is_refused = refuse or in_flight > most_at_once
            seconds = 0.01 if is_refused else seconds_at(in_flight)
            heapq.heappush(arrivals, (now + seconds, sent, limit.round, seconds, is_refused))
        now, _, sent_in, seconds, is_refused = heapq.heappop(arrivals)
        if is_refused:
            limit.pushed_back(sent_in)
        else:
            limit.served(sent_in, seconds=seconds, work=1, in_flight=in_flight)
        in_flight -= 1
        seen.append(limit.current)
    return seen


def test_a_server_of_fixed_latency_gets_all_it_may() -> None:
    seen = simulate(AdaptiveLimit(256), lambda _: 1.0)
    assert seen[0] == 8
    assert seen[-1] == 256
    # Doubling takes one answer time per step: 8 + 16 + … + 256 requests and those before them.
    assert seen.index(256) < 600


def test_the_most_is_never_exceeded_and_one_is_always_left() -> None:
    assert set(simulate(AdaptiveLimit(5), lambda _: 1.0)) == {5}
    assert min(simulate(AdaptiveLimit(64), lambda _: 1.0, refuse=True, num_requests=200)) == 1


def test_growth_ends_where_it_stops_helping() -> None:
    """32 are worked on together; more only wait, so their latency grows in proportion.

    The limit goes too far by a factor, as it must to see that it did, and never on to 1,024.
    """
    seen = simulate(AdaptiveLimit(1024), lambda n: max(1.0, n / 32), num_requests=6000)
    assert min(seen[1000:]) >= 32
    assert max(seen) <= 128


def test_a_batching_server_is_filled_although_each_request_gets_slower() -> None:
    """Four times the latency at 256 in flight, and still 64 times the work of one."""
    seen = simulate(AdaptiveLimit(256), lambda n: 1 + n * 3 / 256)
    assert seen[-1] == 256


def test_a_throttling_server_is_kept_busy_and_seldom_overrun() -> None:
    limit = AdaptiveLimit(256)
    seen = simulate(limit, lambda _: 1.0, most_at_once=40, num_requests=6000)
    settled = seen[2000:]
    assert max(settled) <= 2 * 40
    assert sum(settled) / len(settled) >= 20


def test_one_burst_of_refusals_halves_once() -> None:
    limit = AdaptiveLimit(64, first=64)
    rounds = [limit.round] * 30
    for sent_in in rounds:
        limit.pushed_back(sent_in)
    assert limit.current == 32


def test_clear_latency_growth_halves() -> None:
    limit = AdaptiveLimit(32, first=32)
    simulate(limit, lambda _: 1.0, num_requests=200)
    assert limit.current == 32
    assert min(simulate(limit, lambda _: 3.0, num_requests=40)) == 16


def test_longer_requests_of_a_new_kind_are_no_latency_growth() -> None:
    limit = AdaptiveLimit(32, first=32)
    simulate(limit, lambda _: 1.0, num_requests=200)
    limit.new_work("answers")
    assert set(simulate(limit, lambda _: 10.0, num_requests=200)) == {32}


def test_what_was_measured_lasts_from_one_batch_of_a_kind_to_the_next() -> None:
    limit = AdaptiveLimit(32, first=32)
    for _ in range(20):
        limit.new_work("questions")
        simulate(limit, lambda _: 1.0, num_requests=40)
    limit.new_work("questions")
    assert min(simulate(limit, lambda _: 3.0, num_requests=40)) == 16


def test_a_few_requests_say_nothing_about_many() -> None:
    limit = AdaptiveLimit(256)
    for _ in range(100):
        limit.served(limit.round, seconds=1.0, work=1, in_flight=3)
    assert limit.current == 8


def test_places_are_handed_out_up_to_the_limit_and_repeats_go_first() -> None:
    async def main() -> list[str]:
        slots = Slots(AdaptiveLimit(1))
        order: list[str] = []

        async def take(name: str, *, is_repeat: bool = False) -> None:
            slot = await slots.acquire(is_repeat=is_repeat)
            assert slots.num_in_flight == 1
            order.append(name)
            await asyncio.sleep(0)
            slot.release()

        await asyncio.gather(
            take("first"), take("second"), take("third"), take("again", is_repeat=True)
        )
        return order

    assert asyncio.run(main()) == ["first", "again", "second", "third"]


def test_nothing_is_handed_out_while_held() -> None:
    async def main() -> None:
        slots = Slots(AdaptiveLimit(4))
        with slots.held():
            waiting = asyncio.create_task(slots.acquire())
            with slots.held():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            assert not waiting.done()
        (await waiting).release()
        assert slots.num_in_flight == 0

    asyncio.run(main())


@pytest.mark.parametrize("is_granted", [False, True])
def test_a_place_is_not_lost_when_its_task_is_cancelled(is_granted: bool) -> None:
    """Also when the place was granted in the same turn of the loop."""

    async def main() -> None:
        slots = Slots(AdaptiveLimit(1))
        slot = await slots.acquire()
        waiting = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        if is_granted:
            slot.release()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if not is_granted:
            slot.release()
        async with asyncio.timeout(1):
            (await slots.acquire()).release()
        assert slots.num_in_flight == 0

    asyncio.run(main())
