"""The warm pool: bounded, nothing twice, and never stuck."""

import asyncio
import itertools

import pytest

from rnow_core.env.sandbox.pool import WarmPool
from rnow_core.errors import RolloutFailed


class Factory:
    """Makes numbered items and knows which of them live."""

    def __init__(self):
        self.numbers = itertools.count()
        self.alive = set()
        self.most = 0
        self.broken = False

    async def make(self, kind):
        await asyncio.sleep(0)
        if self.broken:
            raise RolloutFailed("cannot be made")
        item = (kind, next(self.numbers))
        self.alive.add(item)
        self.most = max(self.most, len(self.alive))
        return item

    async def end(self, item):
        await asyncio.sleep(0)
        self.alive.remove(item)


async def settle():
    for _ in range(50):
        await asyncio.sleep(0)


def run(scenario, limit=4):
    """Run with a fresh factory and pool; nothing may be alive once the pool is closed."""

    async def main():
        factory = Factory()
        pool = WarmPool(factory.make, factory.end, limit)
        result = await scenario(pool, factory)
        await pool.close()
        assert factory.alive == set()
        assert factory.most <= limit
        return result

    return asyncio.run(main())


def test_many_takers_share_few_places_and_nothing_is_used_twice():
    async def scenario(pool, factory):
        async def rollout(kind):
            item = await pool.take(kind)
            await asyncio.sleep(0)
            pool.give_back(kind, item)
            return item

        return await asyncio.gather(*(rollout("ab"[number % 2]) for number in range(40)))

    items = run(scenario)
    assert len(set(items)) == 40
    assert [kind for kind, _ in items] == ["ab"[number % 2] for number in range(40)]


def test_what_was_used_at_once_is_ready_before_it_is_asked_for_and_one_more():
    async def scenario(pool, factory):
        for _ in range(3):
            items = [await pool.take("a") for _ in range(3)]
            for item in items:
                pool.give_back("a", item)
            await settle()
            assert len(factory.alive) == 4
        made = next(factory.numbers)
        item = await pool.take("a")
        assert item[1] < made
        pool.give_back("a", item)

    run(scenario)


def test_spares_of_another_kind_make_room():
    async def scenario(pool, factory):
        pool.prepare("a", 9)
        await settle()
        assert {kind for kind, _ in factory.alive} == {"a"}
        return [await pool.take("b") for _ in range(4)]

    async def scenario_and_return(pool, factory):
        for item in await scenario(pool, factory):
            pool.give_back("b", item)

    async def main():
        # While spares are being removed they may overlap with what takes their place.
        factory = Factory()
        pool = WarmPool(factory.make, factory.end, 4)
        await scenario_and_return(pool, factory)
        await pool.close()
        assert factory.alive == set()

    asyncio.run(main())


def test_a_failure_frees_its_place():
    async def scenario(pool, factory):
        factory.broken = True
        for _ in range(9):
            with pytest.raises(RolloutFailed):
                await pool.take("a")
        factory.broken = False
        pool.give_back("a", await pool.take("a"))

    run(scenario, limit=2)


def test_a_cancelled_taker_takes_nothing():
    async def scenario(pool, factory):
        item = await pool.take("a")
        waiting = asyncio.create_task(pool.take("a"))
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        pool.give_back("a", item)
        pool.give_back("a", await asyncio.wait_for(pool.take("a"), 5))

    run(scenario, limit=1)


def test_who_waits_when_the_pool_closes_is_told():
    async def scenario(pool, factory):
        item = await pool.take("a")
        waiting = asyncio.create_task(pool.take("a"))
        await settle()
        pool.give_back("a", item)
        await pool.close()
        with pytest.raises(RolloutFailed, match="closed"):
            await waiting

    run(scenario, limit=1)
