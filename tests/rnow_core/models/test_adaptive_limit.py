"""The gate by itself, on a clock of its own where time matters."""

import asyncio
from itertools import pairwise

import pytest

from rnow_core.models.adaptive_limit import AdaptiveLimit, Closed, NothingWorks


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_429_halves_once_for_all_that_were_under_way_and_the_limit_grows_back():
    clock = Clock()
    gate = AdaptiveLimit(16, cool_down_s=1.0, clock=clock)
    gate.slow_down(None)
    gate.slow_down(None)
    assert gate.limit == 8
    clock.now += 1.0
    gate.slow_down(None)
    assert gate.limit == 4
    for _ in range(4):
        gate.succeeded()
    assert gate.limit == 8  # at 0.9 of the limit that met the wall: from here on one more a window
    for _ in range(15):
        gate.succeeded()
    assert gate.limit == 8  # two windows of 8 successes, because it was the second time
    gate.succeeded()
    assert gate.limit == 9
    for _ in range(500):
        gate.succeeded()
    assert gate.limit == 16
    for _ in range(10):
        clock.now += 1.0
        gate.slow_down(None)
    assert gate.limit == 1


def test_never_more_than_the_limit_at_once():
    async def main():
        gate, most = AdaptiveLimit(3), 0

        async def one():
            nonlocal most
            async with gate.slot():
                most = max(most, gate.in_flight)
                await asyncio.sleep(0.005)

        await asyncio.gather(*(one() for _ in range(20)))
        return most, gate.in_flight

    assert asyncio.run(main()) == (3, 0)


def test_retry_after_pauses_all_and_is_counted():
    async def main():
        gate = AdaptiveLimit(4)
        gate.slow_down(0.3)
        begun = asyncio.get_running_loop().time()
        async with gate.slot():
            return asyncio.get_running_loop().time() - begun, gate.throttled_s

    waited, counted = asyncio.run(main())
    assert waited >= 0.29
    assert counted == pytest.approx(0.3, abs=0.01)


def test_after_a_429_requests_start_spread_over_the_time_of_an_answer():
    async def main():
        gate, starts = AdaptiveLimit(8), []

        async def one():
            async with gate.slot():
                starts.append(asyncio.get_running_loop().time())
                await asyncio.sleep(0.2)

        await asyncio.gather(*(one() for _ in range(8)))
        gate.slow_down(None)
        starts.clear()
        await asyncio.gather(*(one() for _ in range(4)))
        return [later - before for before, later in pairwise(starts)]

    assert min(asyncio.run(main())) >= 0.9 * 0.2 / 4 * 0.95


def test_the_breaker_counts_from_the_first_failure_behind_a_success():
    clock = Clock()
    gate = AdaptiveLimit(4, breaker_s=60, clock=clock)
    gate.failed("one")
    clock.now += 59
    gate.succeeded()
    clock.now += 500
    gate.failed("two")
    clock.now += 61
    with pytest.raises(NothingWorks, match="1 minutes; the last failure: three"):
        gate.failed("three")


def test_a_wait_beyond_the_breaker_stops_at_once():
    with pytest.raises(NothingWorks, match="asks to wait 3600 s"):
        AdaptiveLimit(4, breaker_s=60).slow_down(3600)


def test_close_wakes_those_that_wait_and_leaves_those_in_flight():
    async def main():
        gate = AdaptiveLimit(1)
        async with gate.slot():
            waiting = [asyncio.create_task(gate.rest(60)), asyncio.create_task(_enter(gate))]
            await asyncio.sleep(0.01)
            await gate.close()
            done = await asyncio.gather(*waiting, return_exceptions=True)
        return [type(item) for item in done]

    assert asyncio.run(main()) == [Closed, Closed]


async def _enter(gate):
    async with gate.slot():
        pass
