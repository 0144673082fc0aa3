"""The gate by itself, on a clock of its own where time matters."""

import asyncio
import random
from itertools import pairwise

import pytest
from virtual_time import run_virtual

from rnow_core.models.adaptive_limit import AdaptiveLimit, Closed, NothingWorks


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def refuse(gate, in_flight):
    """A 429 while so many other requests are under way."""
    gate.in_flight = in_flight
    gate.slow_down(None)


def test_a_429_halves_once_for_all_that_were_under_way_and_the_limit_grows_back():
    clock = Clock()
    gate = AdaptiveLimit(16, cool_down_s=1.0, clock=clock)
    refuse(gate, 15)
    refuse(gate, 14)
    assert gate.limit == 8
    clock.now += 1.0
    refuse(gate, 7)
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
        refuse(gate, gate.limit - 1)
    assert gate.limit == 1


def test_a_limit_that_was_not_reached_is_not_the_wall():
    gate = AdaptiveLimit(16, clock=Clock())
    refuse(gate, 5)
    assert gate.limit == 8
    for _ in range(8):
        gate.succeeded()
    assert gate.limit == 16


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


class Bucket:
    """A server in virtual time: `rate` requests a second, `burst` at once, then 429 and a wait of a second.

    A fifth of the rest fails, or takes much longer than an answer.
    """

    def __init__(self, clock, rate, burst):
        self.clock, self.rate, self.burst = clock, rate, burst
        self.tokens, self.filled = float(burst), clock()
        self.random = random.Random(0)
        self.let_through, self.refused = [], []

    async def ask(self):
        """What became of a request."""
        now = self.clock()
        self.tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate)
        self.filled = now
        if self.tokens < 1 - 1e-9:
            self.refused.append(now)
            return "429"
        self.tokens -= 1
        self.let_through.append(now)
        fate = self.random.choice(["fails", "slow"]) if self.random.random() < 0.2 else "answered"
        await asyncio.sleep(2.3 if fate == "slow" else 0.3)
        return "fails" if fate == "fails" else "answered"

    def pace(self, start, end):
        """Requests a second that were let through in a part of the time."""
        return sum(start <= when < end for when in self.let_through) / (end - start)


async def use_up(bucket, prompts, concurrency):
    """Ask for answers to so many prompts in the way of a generation."""
    gate = AdaptiveLimit(concurrency, clock=bucket.clock)
    todo = iter(range(prompts))

    async def work():
        for _ in todo:
            fate = ""
            while fate != "answered":
                async with gate.slot():
                    fate = await bucket.ask()
                if fate == "429":
                    gate.slow_down(1.0)
                elif fate == "fails":
                    gate.failed("500")
                    await gate.rest(0.5)
            gate.succeeded()

    await asyncio.gather(*(work() for _ in range(2 * concurrency)))


@pytest.mark.parametrize(("rate", "burst", "prompts"), [(20, 1, 4000), (100, 10, 3000), (100, 100, 3000)])
def test_most_of_what_a_rate_limit_allows_is_used_whatever_its_burst(rate, burst, prompts):
    async def main(clock):
        bucket = Bucket(clock, rate, burst)
        await use_up(bucket, prompts, 64)
        return bucket

    bucket = run_virtual(main)
    end = bucket.let_through[-1]
    assert bucket.pace(0.1 * end, 0.9 * end) >= 0.9 * rate
    for refused in bucket.refused:
        assert bucket.pace(refused + 1e-6, refused + 0.999) == 0
    assert len(bucket.refused) < 0.03 * prompts + 64


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_refusals_that_no_pace_avoids_do_not_slow_it_down(share):
    async def main(clock):
        gate, draw, answered = AdaptiveLimit(16, clock=clock), random.Random(1), []
        todo = iter(range(3000))

        async def work():
            for _ in todo:
                while True:
                    async with gate.slot():
                        refused = draw.random() < share
                        await asyncio.sleep(0.05 if refused else 0.3)
                    if not refused:
                        break
                    gate.slow_down(None)
                    await gate.rest(0.2)
                gate.succeeded()
                answered.append(clock())

        await asyncio.gather(*(work() for _ in range(32)))
        return answered

    answered = run_virtual(main)
    rate = len(answered) / answered[-1]
    assert rate >= 0.5 * (1 - share) * 16 / 0.3


def test_the_pace_follows_a_limit_that_is_raised_or_lowered():
    async def main(clock):
        bucket = Bucket(clock, 10.0, 5)

        async def change(when, rate):
            await asyncio.sleep(when)
            bucket.rate = rate

        await asyncio.gather(use_up(bucket, 4200, 64), change(60, 30.0), change(180, 8.0))
        return bucket

    bucket = run_virtual(main)
    assert bucket.pace(30, 60) >= 0.9 * 10
    assert bucket.pace(150, 180) >= 0.85 * 30
    assert bucket.pace(210, 260) >= 0.85 * 8


def test_after_a_429_requests_start_one_after_the_other():
    async def main(clock):
        gate, starts = AdaptiveLimit(8, clock=clock), []

        async def one():
            async with gate.slot():
                starts.append(clock())
                await asyncio.sleep(0.3)

        gate.slow_down(2.0)
        await asyncio.gather(*(one() for _ in range(4)))
        return starts

    starts = run_virtual(main)
    assert starts[0] >= 2.0
    assert min(later - before for before, later in pairwise(starts)) >= 0.05


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
